//! A temporary Citus cluster: a coordinator and two workers, from the PostgreSQL in `PG_BIN`, which must have the
//! extension. Citus is not part of this project and is never fetched.

use std::{fs, path::Path};

use tokio_postgres::Client;

use crate::{
    DevError,
    postgres::{Postgres, TemporaryPostgres, connect},
};

/// The number of workers.
pub const WORKERS: usize = 2;

/// Passes the workers to tests: their URLs, separated by commas. [`crate::TEST_DATABASE_URL`] is the coordinator's.
pub const TEST_CITUS_WORKERS: &str = "TEST_CITUS_WORKERS";

/// Not durable. Dropping it stops the servers and removes their data.
#[derive(Debug)]
pub struct TemporaryCitus {
    /// The node that clients use; it holds no buckets.
    pub coordinator: TemporaryPostgres,
    /// The nodes that hold the buckets.
    pub workers: Vec<TemporaryPostgres>,
}

impl TemporaryCitus {
    /// Starts the servers; `cache` as for [`TemporaryPostgres::start`].
    ///
    /// # Errors
    /// A server does not start: most likely its PostgreSQL has no Citus.
    pub async fn start(cache: &Path) -> Result<Self, DevError> {
        Self::start_with_clocks(cache, [None, None]).await
    }

    /// The same, with clocks of the workers that were made by [`clock`].
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub async fn start_with_clocks(cache: &Path, clocks: [Option<Clock>; WORKERS]) -> Result<Self, DevError> {
        let coordinator = TemporaryPostgres::start(cache, settings()).await?;
        let mut workers = Vec::new();
        for clock in clocks {
            let environment = clock.map(|clock| clock.0).unwrap_or_default();
            workers.push(TemporaryPostgres::start_in(cache, settings(), environment).await?);
        }
        Ok(Self { coordinator, workers })
    }

    /// Returns the URLs of the workers, in the form of [`TEST_CITUS_WORKERS`].
    pub fn worker_urls(&self) -> String {
        let urls: Vec<String> = self.workers.iter().map(|worker| worker.server().admin_url()).collect();
        urls.join(",")
    }
}

/// A clock of a server that differs from ours: the environment variables that make it.
#[derive(Clone, Debug)]
pub struct Clock(Vec<(String, String)>);

/// Returns a clock that is ahead of ours by this many seconds, or behind if they are negative; `None` if libfaketime is
/// not installed.
pub fn clock(seconds: i32) -> Option<Clock> {
    let of_architecture = |folder: fs::DirEntry| folder.path().join("faketime/libfaketime.so.1");
    let mut found = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(of_architecture);
    let library = found.find(|library| library.exists())?;
    let variables = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", format!("{seconds:+}")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    Some(Clock(variables.map(|(name, value)| (name.to_owned(), value)).into()))
}

/// Returns the settings of its servers.
pub fn settings() -> Vec<(String, String)> {
    let settings = [
        ("shared_preload_libraries", "citus"),
        // With IPv6, where there is.
        ("listen_addresses", "127.0.0.1,::1"),
        ("citus.node_conninfo", "sslmode=disable"),
        ("shared_buffers", "48MB"),
        // One for each test database on each server, and those that move buckets.
        ("max_worker_processes", "120"),
        ("wal_level", "logical"),
        ("max_wal_senders", "20"),
        ("max_replication_slots", "20"),
        ("citus.enable_statistics_collection", "off"),
    ];
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Creates a database and registers the workers in it; returns its URL on the coordinator.
///
/// # Errors
/// A server refuses: it has no Citus, or already has a database of that name.
pub async fn create_database(coordinator: &str, workers: &str, name: &str) -> Result<String, DevError> {
    let workers: Vec<&str> = workers.split(',').collect();
    for admin in [coordinator].into_iter().chain(workers.iter().copied()) {
        run(&client(admin).await?, &format!("create database {name}")).await?;
        run(&client(&in_database(admin, name)).await?, "create extension citus").await?;
    }
    let url = in_database(coordinator, name);
    // Citus writes the roles of all databases to a server that it adds. For two databases at once, one of them fails:
    // "tuple concurrently updated". The lock ends with the session.
    let one_at_a_time = client(coordinator).await?;
    run(&one_at_a_time, "select pg_advisory_lock(hashtext('citus_add_node'))").await?;
    let client = client(&url).await?;
    run(&client, &format!("select citus_set_coordinator_host('127.0.0.1', {})", port(coordinator))).await?;
    for worker in workers {
        run(&client, &format!("select citus_add_node('127.0.0.1', {})", port(worker))).await?;
    }
    Ok(url)
}

/// Returns the URL of another database on the same server.
pub fn in_database(admin: &str, name: &str) -> String {
    let server = admin.rsplit_once('/').map_or(admin, |(server, _)| server);
    format!("{server}/{name}")
}

/// Returns the port in a URL of ours.
pub fn port(url: &str) -> &str {
    url.rsplit(':').next().and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

async fn client(url: &str) -> Result<Client, DevError> {
    connect(url).await.map_err(DevError::database("connect to a server of Citus"))
}

async fn run(client: &Client, statement: &str) -> Result<(), DevError> {
    client.batch_execute(statement).await.map_err(DevError::database(statement))
}

/// Returns the server on a port, for tests that kill it.
pub fn server_at<'a>(servers: &'a mut [TemporaryPostgres], port: &str) -> Option<&'a mut Postgres> {
    servers.iter_mut().map(TemporaryPostgres::server_mut).find(|server| server.port().to_string() == port)
}
