//! Replicas on this machine, started and stopped on demand, with the surroundings that `mana-dev with-services` puts
//! into the environment: PostgreSQL, a token issuer, a credits service.

pub(crate) mod server_cpu;

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, io};

use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio_postgres::NoTls;

use crate::token::{TokenError, TokenMint};

const READY: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// The reasons why there is no local cluster.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A setting is missing: this has to run under `mana-dev with-services`.
    #[error("{0} is not set; run this under `mana-dev with-services --`")]
    Setting(&'static str),
    /// The issuer's key cannot be used.
    #[error("the issuer's key cannot be used")]
    Key(#[from] TokenError),
    /// A program or a file could not be used.
    #[error("cannot {action}")]
    Io {
        /// The action.
        action: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The database did not do it.
    #[error("the database could not {action}")]
    Database {
        /// The action.
        action: String,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A replica did not start, or ended.
    #[error("{name} {problem}; its log is {}", log.display())]
    Replica {
        /// Its name.
        name: String,
        /// What happened to it.
        problem: String,
        /// The path of its log.
        log: PathBuf,
    },
    /// A command of the server failed.
    #[error("`{command}` ended with {status}; its log is {}", log.display())]
    Command {
        /// The command.
        command: &'static str,
        /// Its exit status.
        status: ExitStatus,
        /// The path of its log.
        log: PathBuf,
    },
}

/// The surroundings of replicas.
#[derive(Clone)]
pub struct Surroundings {
    /// The server's program.
    pub exe: PathBuf,
    /// URL of a database that always exists.
    pub database_url: String,
    /// Signs the users' tokens.
    pub mint: TokenMint,
    /// The folder of PostgreSQL's programs.
    pub pg_bin: PathBuf,
    /// The folder for logs.
    pub folder: PathBuf,
}

impl Surroundings {
    /// Reads the environment; `exe` is the server's program, and `folder` is created if it is missing.
    pub fn from_env(exe: PathBuf, folder: PathBuf) -> Result<Self, LocalError> {
        let var = |name| env::var(name).map_err(|_| LocalError::Setting(name));
        // Replicas read these from the environment themselves.
        var("JWKS_URL")?;
        var("MANA_CREDITS_URL")?;
        std::fs::create_dir_all(&folder).map_err(failed(format!("make {}", folder.display())))?;
        Ok(Self {
            exe,
            database_url: var("DATABASE_URL")?,
            mint: TokenMint::from_jwk_file(var("MANA_LOAD_KEY")?)?,
            pg_bin: var("PG_BIN")?.into(),
            folder,
        })
    }

    /// Returns the URL of another database on the same server.
    pub fn url_of(&self, database: &str) -> String {
        let base = self.database_url.rsplit_once('/').map_or(self.database_url.as_str(), |(base, _)| base);
        format!("{base}/{database}")
    }

    /// Opens a connection, driven by a task of its own.
    pub async fn connect(&self, database: &str) -> Result<tokio_postgres::Client, LocalError> {
        let action = || format!("be connected to ({database})");
        let connected = tokio_postgres::connect(&self.url_of(database), NoTls).await;
        let (client, connection) = connected.map_err(|source| LocalError::Database { action: action(), source })?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Creates an empty database with the current schema, replacing any of the same name.
    pub async fn fresh_database(&self, name: &str) -> Result<(), LocalError> {
        self.drop_database(name).await?;
        self.create_database(name).await
    }

    /// Drops a database of ours.
    pub async fn drop_database(&self, name: &str) -> Result<(), LocalError> {
        self.admin(&format!("drop database if exists {name} with (force)")).await
    }

    /// Creates a database with the current schema.
    pub async fn create_database(&self, name: &str) -> Result<(), LocalError> {
        self.admin(&format!("create database {name}")).await?;
        self.command("migrate", name, &[]).await
    }

    /// Runs a command of the server on a database, and waits until it is done.
    pub async fn command(
        &self,
        command: &'static str,
        database: &str,
        settings: &[(&str, &str)],
    ) -> Result<(), LocalError> {
        let log = self.folder.join(format!("{command}.log"));
        let output = File::create(&log).map_err(failed(format!("write {}", log.display())))?;
        let errors = output.try_clone().map_err(failed(format!("write {}", log.display())))?;
        let mut run = Command::new(&self.exe);
        run.arg(command).env("DATABASE_URL", self.url_of(database)).env_remove("DATABASE_LISTEN_URL");
        run.envs(settings.iter().copied()).stdin(Stdio::null()).stdout(output).stderr(errors);
        let status = run.status().await.map_err(failed(format!("run {}", self.exe.display())))?;
        if status.success() { Ok(()) } else { Err(LocalError::Command { command, status, log }) }
    }

    /// True if there is a database with this name.
    pub async fn has_database(&self, name: &str) -> Result<bool, LocalError> {
        let (database, action) = ("postgres", "look for a database".to_owned());
        let rows = self.connect(database).await?.query("select 1 from pg_database where datname = $1", &[&name]).await;
        rows.map(|rows| !rows.is_empty()).map_err(|source| LocalError::Database { action, source })
    }

    async fn admin(&self, statement: &str) -> Result<(), LocalError> {
        let done = self.connect("postgres").await?.batch_execute(statement).await;
        done.map_err(|source| LocalError::Database { action: format!("do this: {statement}"), source })
    }

    /// Starts a replica on a free port, with these additional settings, and waits until it is ready.
    pub async fn replica(&self, name: &str, database: &str, settings: &[(&str, &str)]) -> Result<Replica, LocalError> {
        let owned = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        self.start(name.to_owned(), database, free_port()?, owned).await
    }

    /// Starts a replica on the same address as another one, which can then be stopped without clients having to look
    /// for the new one.
    pub async fn successor(&self, of: &Replica, database: &str) -> Result<Replica, LocalError> {
        self.start(format!("{}-next", of.name), database, of.port, of.settings.clone()).await
    }

    async fn start(
        &self,
        name: String,
        database: &str,
        port: u16,
        settings: Vec<(String, String)>,
    ) -> Result<Replica, LocalError> {
        let own_port = free_port()?;
        let log = self.folder.join(format!("{name}.log"));
        let output = File::create(&log).map_err(failed(format!("write {}", log.display())))?;
        let errors = output.try_clone().map_err(failed(format!("write {}", log.display())))?;
        let mut command = Command::new(&self.exe);
        command
            .arg("serve")
            .envs([("DATABASE_URL", self.url_of(database)), ("DATABASE_LISTEN_URL", self.url_of(database))])
            .envs([("BIND_ADDRESS", "127.0.0.1"), ("PORT", &port.to_string()), ("REUSE_PORT", "true")])
            .envs([("REPLICA_PORT", own_port.to_string()), ("REPLICA_ID", name.clone())])
            .envs([("DRAIN_DELAY_MS", "0"), ("DRAIN_WINDOW_MS", "500")])
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true);
        let child = command.spawn().map_err(failed(format!("start {}", self.exe.display())))?;
        let base = format!("http://127.0.0.1:{port}");
        let mut replica = Replica { name, base, port, settings, log, child };
        replica.wait_ready(own_port).await?;
        Ok(replica)
    }

    /// Starts several replicas of one database.
    pub async fn replicas(
        &self,
        count: usize,
        database: &str,
        settings: &[(&str, &str)],
    ) -> Result<Vec<Replica>, LocalError> {
        let mut all = Vec::with_capacity(count);
        for number in 1..=count {
            all.push(self.replica(&format!("replica-{number}"), database, settings).await?);
        }
        Ok(all)
    }
}

/// A replica. Dropping it kills it.
pub struct Replica {
    name: String,
    base: String,
    port: u16,
    settings: Vec<(String, String)>,
    log: PathBuf,
    child: Child,
}

impl Replica {
    /// Its base URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Resident memory in bytes; none if it is gone.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// Processor time of all its threads so far, to the nanosecond; none if it is gone.
    pub fn cpu(&self) -> Option<Duration> {
        let pid = i32::try_from(self.child.id()?).ok()?;
        clock_gettime(clock_getcpuclockid(Pid::from_raw(pid)).ok()?).ok().map(Duration::from)
    }

    /// Asks it to stop (SIGTERM) and waits until it is gone.
    pub async fn stop(mut self) -> Result<(), LocalError> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // If it is gone by now, it has stopped.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let ended = tokio::time::timeout(READY, self.child.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.failed(format!("ended with {status}"))),
            Ok(Err(_)) | Err(_) => Err(self.failed(format!("did not stop within {READY:?}"))),
        }
    }

    /// Waits on its own port: the other one may be shared.
    async fn wait_ready(&mut self, own_port: u16) -> Result<(), LocalError> {
        let begun = Instant::now();
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build();
        let client = client.map_err(|error| self.failed(format!("cannot be queried: {error}")))?;
        let url = format!("http://127.0.0.1:{own_port}/health/ready");
        while begun.elapsed() < READY {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(format!("ended with {status}")));
            }
            if client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Err(self.failed(format!("was not ready within {READY:?}")))
    }

    fn failed(&self, problem: String) -> LocalError {
        LocalError::Replica { name: self.name.clone(), problem, log: self.log.clone() }
    }
}

/// Stops them all at once.
pub async fn stop_all(replicas: Vec<Replica>) -> Result<(), LocalError> {
    futures_util::future::try_join_all(replicas.into_iter().map(Replica::stop)).await.map(|_| ())
}

fn free_port() -> Result<u16, LocalError> {
    let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(failed("find a free port".to_owned()))
}

fn failed(action: String) -> impl FnOnce(io::Error) -> LocalError {
    move |source| LocalError::Io { action, source }
}
