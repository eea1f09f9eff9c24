//! Starts PostgreSQL's server process and waits until it really answers.

use std::{fs::OpenOptions, path::Path, process::Stdio, time::Duration};

use tokio_postgres::NoTls;

use super::{
    binaries::Binaries,
    datadir::{self, SUPERUSER, beside},
    options::{PostgresOptions, Shutdown},
};
use crate::{
    DevError,
    child::{Child, Group},
    place::Account,
    wait::{tail, until},
};

const START_LIMIT: Duration = Duration::from_secs(60);

/// Starts the server process and waits until it answers.
pub async fn launch(
    binaries: &Binaries,
    account: Option<Account>,
    options: &PostgresOptions,
    port: u16,
) -> Result<Child, DevError> {
    let dir = &options.data_dir;
    let log_path = beside(dir, ".log");
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .and_then(|log| Ok((log.try_clone()?, log)))
        .map_err(DevError::io(format!("write {}", log_path.display())))?;
    let mut command = datadir::command(&binaries.program("postgres"), account);
    command.arg("-D").arg(dir).arg("-p").arg(port.to_string());
    for (name, value) in settings(options) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command.envs(options.environment.iter().cloned());
    command.stdin(Stdio::null()).stdout(log.0).stderr(log.1);
    let on_our_death = if options.durable { Shutdown::Fast } else { Shutdown::Immediate };
    let child = Child::spawn(command, on_our_death.signal(), Group::Own).map_err(DevError::io("start PostgreSQL"))?;
    ready(&child, dir, port, &log_path).await?;
    Ok(child)
}

fn settings(options: &PostgresOptions) -> Vec<(String, String)> {
    let mut all = vec![
        ("listen_addresses", "127.0.0.1"),
        // TCP is enough, and a socket's path would have to be short, and writable for two users.
        ("unix_socket_directories", ""),
        ("max_connections", "300"),
        ("logging_collector", "off"),
        ("log_timezone", "UTC"),
        ("timezone", "UTC"),
    ];
    if !options.durable {
        all.extend([("fsync", "off"), ("full_page_writes", "off"), ("synchronous_commit", "on")]);
        // Shared memory is then in files of the data folder. A killed server would leave it in /dev/shm until a reboot.
        all.push(("dynamic_shared_memory_type", "mmap"));
    }
    all.into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .chain(options.settings.iter().cloned())
        .collect()
}

async fn ready(child: &Child, dir: &Path, port: u16, log: &Path) -> Result<(), DevError> {
    let who = || "PostgreSQL".to_owned();
    let answer = until(START_LIMIT, async || {
        if let Some(status) = child.status() {
            return Some(Err(status));
        }
        serves(port, dir).await.then_some(Ok(()))
    });
    match answer.await {
        Some(Ok(())) => Ok(()),
        Some(Err(status)) => Err(DevError::EndedEarly { who: who(), status, log: tail(log) }),
        None => Err(DevError::NotReady { who: who(), within: START_LIMIT, log: tail(log) }),
    }
}

/// True if the server that answers on the port is the one of this folder.
async fn serves(port: u16, dir: &Path) -> bool {
    let asking = async {
        let client = connect(&url(port, "postgres")).await.ok()?;
        let row = client.query_one("show data_directory", &[]).await.ok()?;
        Some(Path::new(row.get::<_, &str>(0)) == dir)
    };
    let answer = tokio::time::timeout(Duration::from_secs(2), asking).await;
    answer.ok().flatten().unwrap_or(false)
}

pub async fn connect(url: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub fn url(port: u16, database: &str) -> String {
    format!("postgres://{SUPERUSER}@127.0.0.1:{port}/{database}")
}
