//! The PostgreSQL of a folder that is used repeatedly.

use std::{fs, path::Path};

use mana_dev::{
    DevError, Postgres, PostgresOptions,
    cluster::DATABASE,
    place::{self, Account},
    ports::preferred,
    postgres::{Binaries, stop_leftovers},
};

/// Options for starting it.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Holds the data and, if it isn't installed, PostgreSQL itself. The caller holds the folder's lock.
    pub folder: &'a Path,
    /// Used if it is free; `None` means any free port.
    pub port: Option<u16>,
    /// As in postgresql.conf.
    pub settings: Vec<(String, String)>,
    /// Drop stored data.
    pub reset: bool,
}

/// Starts it, with [`DATABASE`] in it. Committed data survives.
pub async fn start(wanted: Wanted<'_>) -> Result<Postgres, DevError> {
    let account = Account::for_postgres()?;
    let binaries = Binaries::locate(wanted.folder, account).await?;
    let data_dir = place::reachable(&wanted.folder.join("postgres"), account)?;
    // The caller's lock shows that nobody uses it: anything running is left from a crash, and holds the port.
    stop_leftovers(&data_dir).await?;
    if wanted.reset {
        reset(&data_dir)?;
    }
    let port = wanted.port.map(preferred).filter(|port| *port != 0);
    let options = PostgresOptions { data_dir, port, settings: wanted.settings, environment: vec![], durable: true };
    let postgres = Postgres::start_with(binaries, options).await?;
    if !postgres.has_database(DATABASE).await? {
        postgres.create_database(DATABASE).await?;
    }
    Ok(postgres)
}

fn reset(data_dir: &Path) -> Result<(), DevError> {
    // The user may have named any folder, so remove it only if it is a database.
    if !data_dir.join("PG_VERSION").exists() {
        return Ok(());
    }
    fs::remove_dir_all(data_dir).map_err(DevError::io(format!("remove {}", data_dir.display())))
}
