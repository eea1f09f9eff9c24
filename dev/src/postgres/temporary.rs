//! A temporary PostgreSQL: its folder is removed afterwards, or by the next one if we are killed before that.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{Binaries, Postgres, PostgresOptions, datadir};
use crate::{
    DevError,
    lock::FolderLock,
    place::{self, Account},
};

/// Passes the path of a [`DataTemplate`] to the programs that we start. Their temporary servers copy it.
pub const PG_TEMPLATE: &str = "PG_TEMPLATE";

const PREFIX: &str = "mana-sync-";

/// A data folder as `initdb` made it. A copy takes a tenth of the processor time that another `initdb` would, and tests
/// start dozens of servers. Dropping it removes it.
#[derive(Debug)]
pub struct DataTemplate {
    path: PathBuf,
    _folder: TemporaryFolder,
}

impl DataTemplate {
    /// Makes one; `cache` as for [`TemporaryPostgres::start`].
    pub async fn make(cache: &Path) -> Result<Self, DevError> {
        let account = Account::for_postgres()?;
        let binaries = Binaries::locate(cache, account).await?;
        let folder = TemporaryFolder::create(account)?;
        let path = folder.path.join("template");
        datadir::prepare(&binaries, &path, account).await?;
        Ok(Self { path, _folder: folder })
    }

    /// Its path, for [`PG_TEMPLATE`].
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Not durable. Dropping it stops the server and removes its data.
#[derive(Debug)]
pub struct TemporaryPostgres {
    // The order matters: the server stops before its folder is removed.
    server: Postgres,
    _folder: TemporaryFolder,
}

impl TemporaryPostgres {
    /// `cache` keeps a PostgreSQL that had to be fetched; `settings` are as in postgresql.conf. The data folder is a
    /// copy of the one that [`PG_TEMPLATE`] names, if there is one.
    pub async fn start(cache: &Path, settings: Vec<(String, String)>) -> Result<Self, DevError> {
        Self::start_in(cache, settings, Vec::new()).await
    }

    /// The same, with these environment variables.
    pub async fn start_in(
        cache: &Path,
        settings: Vec<(String, String)>,
        environment: Vec<(String, String)>,
    ) -> Result<Self, DevError> {
        let template = env::var_os(PG_TEMPLATE).map(PathBuf::from);
        Self::start_as(template.as_deref(), cache, settings, environment).await
    }

    /// The same with this template, or with none. One of another major version is left alone.
    pub async fn start_from(
        template: Option<&Path>,
        cache: &Path,
        settings: Vec<(String, String)>,
    ) -> Result<Self, DevError> {
        Self::start_as(template, cache, settings, Vec::new()).await
    }

    async fn start_as(
        template: Option<&Path>,
        cache: &Path,
        settings: Vec<(String, String)>,
        environment: Vec<(String, String)>,
    ) -> Result<Self, DevError> {
        let account = Account::for_postgres()?;
        let binaries = Binaries::locate(cache, account).await?;
        let folder = TemporaryFolder::create(account)?;
        let data_dir = folder.path.join("postgres");
        if let Some(template) = template
            && datadir::is_of(template, &binaries)?
        {
            datadir::copy(template, &data_dir).await?;
        }
        let options = PostgresOptions { data_dir, port: None, settings, environment, durable: false };
        let server = Postgres::start_with(binaries, options).await?;
        Ok(Self { server, _folder: folder })
    }

    /// The server.
    pub fn server(&self) -> &Postgres {
        &self.server
    }

    /// The server, for stopping, killing and restarting it.
    pub fn server_mut(&mut self) -> &mut Postgres {
        &mut self.server
    }
}

#[derive(Debug)]
struct TemporaryFolder {
    path: PathBuf,
    _lock: FolderLock,
}

impl TemporaryFolder {
    fn create(account: Option<Account>) -> Result<Self, DevError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let base = [env::temp_dir(), "/var/tmp".into(), "/tmp".into()]
            .into_iter()
            .find(|base| account.is_none_or(|account| account.can_reach(base)))
            .unwrap_or_else(env::temp_dir);
        sweep(&base);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = base.join(format!("{PREFIX}{}-{count}", process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {
                    let _lock = FolderLock::take(&path.join("lock"), &path)?;
                    // Regardless of our umask: PostgreSQL's user has to get through.
                    place::open_folder(&path)?;
                    return Ok(Self { path, _lock });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(DevError::Io { action: format!("create {}", path.display()), source });
                }
            }
        }
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders whose owner is gone, as their free locks show.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let folder = entry.path();
        let lock = folder.join("lock");
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if ours && lock.exists() && FolderLock::take(&lock, &folder).is_ok() {
            let _ = fs::remove_dir_all(&folder);
        }
    }
}
