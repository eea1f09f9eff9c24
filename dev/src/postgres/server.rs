//! A PostgreSQL server of our own: a direct child of this process, on 127.0.0.1 only, with its data in one folder. It
//! can be stopped, killed and restarted on the same port with the same data, as tests of G8 need, and it never outlives
//! us.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use nix::sys::signal::Signal;

use super::{
    binaries::Binaries,
    datadir::{self, all_gone, beside},
    launch::{connect, launch, url},
    options::{PostgresOptions, Shutdown},
};
use crate::{
    DevError,
    child::Child,
    free_port,
    lock::FolderLock,
    place::{self, Account, default_folder},
};

const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A running server. Dropping it stops it and waits until it has ended.
#[derive(Debug)]
pub struct Postgres {
    child: Child,
    port: u16,
    options: PostgresOptions,
    binaries: Binaries,
    account: Option<Account>,
    _lock: FolderLock,
}

impl Postgres {
    /// Starts it with the PostgreSQL of this machine, or one fetched into [`default_folder`].
    pub async fn start(options: PostgresOptions) -> Result<Self, DevError> {
        let binaries = Binaries::locate(&default_folder(), Account::for_postgres()?).await?;
        Self::start_with(binaries, options).await
    }

    /// Starts it with these programs.
    pub async fn start_with(binaries: Binaries, mut options: PostgresOptions) -> Result<Self, DevError> {
        const TRIES: usize = 5;
        let account = Account::for_postgres()?;
        options.data_dir = place::reachable(&options.data_dir, account)?;
        let dir = &options.data_dir;
        let lock = FolderLock::take(&beside(dir, ".lock"), dir)?;
        datadir::prepare(&binaries, dir, account).await?;
        let mut tries = 0;
        let (child, port) = loop {
            tries += 1;
            let port = options.port.map_or_else(free_port, Ok)?;
            match launch(&binaries, account, &options, port).await {
                Ok(child) => break (child, port),
                // Another process was faster to take the free port.
                Err(DevError::EndedEarly { log, .. })
                    if options.port.is_none() && tries < TRIES && log.contains("in use") => {}
                Err(error) => return Err(error),
            }
        };
        Ok(Self { child, port, options, binaries, account, _lock: lock })
    }

    /// Returns the URL of one of its databases, which need not exist.
    pub fn url(&self, database: &str) -> String {
        url(self.port, database)
    }

    /// Returns the URL of the database that always exists, for creating others.
    pub fn admin_url(&self) -> String {
        self.url("postgres")
    }

    /// Its port on 127.0.0.1, which a restart keeps.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The actual folder of its data.
    pub fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// The path of its log.
    pub fn log_path(&self) -> PathBuf {
        beside(self.data_dir(), ".log")
    }

    /// The programs it was started with.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Waits until the server has ended, for any reason.
    pub async fn ended(&self) -> ExitStatus {
        self.child.wait().await
    }

    /// Creates a database and returns its URL. Fails if it exists.
    pub async fn create_database(&self, name: &str) -> Result<String, DevError> {
        self.execute(&format!("create database {}", quoted(name))).await?;
        Ok(self.url(name))
    }

    /// True if a database of that name exists.
    pub async fn has_database(&self, name: &str) -> Result<bool, DevError> {
        let action = "look for a database";
        let client = connect(&self.admin_url()).await.map_err(DevError::database(action))?;
        client
            .query_opt("select 1 from pg_database where datname = $1", &[&name])
            .await
            .map(|row| row.is_some())
            .map_err(DevError::database(action))
    }

    /// Drops a database after disconnecting its clients. Does nothing if it doesn't exist.
    pub async fn drop_database(&self, name: &str) -> Result<(), DevError> {
        self.execute(&format!("drop database if exists {} with (force)", quoted(name))).await
    }

    /// Stops it and waits until its processes are gone.
    pub async fn stop(self, mode: Shutdown) -> Result<(), DevError> {
        self.end(mode).await
    }

    /// Stops it if it runs, and starts it again with the same port and data.
    pub async fn restart(&mut self, mode: Shutdown) -> Result<(), DevError> {
        self.end(mode).await?;
        self.child = launch(&self.binaries, self.account, &self.options, self.port).await?;
        Ok(())
    }

    /// Kills it as a power failure would: all its processes at once. Waits until they are gone; [`Self::restart`] brings
    /// it back.
    pub async fn kill(&mut self) -> Result<(), DevError> {
        // It starts no process from here on, and reacts to no other's end.
        self.child.signal(Signal::SIGSTOP);
        datadir::kill_at_once(self.data_dir());
        self.child.signal(Signal::SIGKILL);
        self.child.wait().await;
        self.gone().await
    }

    /// Like [`Self::stop`], but a caller can give up waiting and stop it in another way.
    pub async fn end(&self, mode: Shutdown) -> Result<(), DevError> {
        self.child.signal(mode.signal());
        if self.child.wait_for(STOP_LIMIT).await.is_none() {
            self.child.signal(Shutdown::Immediate.signal());
            self.child.wait_for(STOP_LIMIT).await;
        }
        self.gone().await
    }

    async fn gone(&self) -> Result<(), DevError> {
        if all_gone(self.data_dir(), STOP_LIMIT).await {
            return Ok(());
        }
        Err(DevError::NotStopped { who: "PostgreSQL".into(), within: STOP_LIMIT })
    }

    async fn execute(&self, statement: &str) -> Result<(), DevError> {
        let client = connect(&self.admin_url()).await.map_err(DevError::database(statement))?;
        client.batch_execute(statement).await.map_err(DevError::database(statement))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let polite = if self.options.durable { Shutdown::Fast } else { Shutdown::Immediate };
        for mode in [polite, Shutdown::Immediate] {
            self.child.signal(mode.signal());
            if self.child.block_for(Duration::from_secs(10)) {
                datadir::free_shared_memory(self.data_dir());
                return;
            }
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
