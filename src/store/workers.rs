//! The servers of `DATABASE_WORKER_URLS`: each is used once it has shown that it is of the Citus cluster that `DATABASE_URL` leads
//! to. One of another cluster would take pushes as well, and keep them there.
//!
//! Both sides are asked when the server was started: the server itself by its URL, and by the coordinator, which connects to it
//! as Citus does. Names and ports are no proof, nor is what is stored: a copy of a cluster has the same.

use super::schema::STEP_TIMEOUT;
use crate::config::{Config, Host, PostgresUrl, Secret};
use crate::db::{ConnectError, Connector};
use crate::store::layout::Layout;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type;

/// What the connections call themselves.
const NAME: &str = "mana-sync workers";
/// Pauses before a server is asked again that was not let in: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// What tells a server's database from all others.
const PLACE: &str = "select concat_ws(' ', oid, datname, extract(epoch from pg_postmaster_start_time()))
    from pg_database where datname = current_database()";

/// Of the server that Citus knows by this name and port that, if there is one, else of all of its servers; and of the coordinator.
const PLACES: &str = "
with of_cluster as (
    select nodename, nodeport, (nodename, nodeport) = ($1, $2) as is_named
    from pg_dist_node where isactive and noderole = 'primary'
), asked as (
    select array_agg(nodename) as names, array_agg(nodeport) as ports, array_agg($3::text) as commands
    from of_cluster where is_named or not exists (select from of_cluster where is_named)
)
select said.result
from asked cross join lateral master_run_on_worker(asked.names, asked.ports, asked.commands, true) as said
where said.success
union all
select concat_ws(' ', oid, datname, extract(epoch from pg_postmaster_start_time()))
from pg_database where datname = current_database()";

/// A server of a Citus cluster, by the name and port by which Citus and our settings know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct WorkerAddress {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for WorkerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl WorkerAddress {
    fn of(url: &Secret) -> Result<WorkerAddress, ConnectError> {
        let url = PostgresUrl::parse(url.expose())?;
        // Of several hosts of one worker the first is the one that Citus may know.
        let first = url.hosts.into_iter().next();
        Ok(first.map_or(WorkerAddress { host: String::new(), port: 0 }, |endpoint| match endpoint.host {
            Host::Unix(folder) => WorkerAddress { host: folder.display().to_string(), port: endpoint.port },
            Host::Tcp { name, .. } => WorkerAddress { host: name, port: endpoint.port },
        }))
    }
}

/// A server of the settings.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) address: WorkerAddress,
    connector: Connector,
}

impl Worker {
    /// Those of `DATABASE_WORKER_URLS`, in their order; none where buckets are not on Citus.
    pub(super) fn all(config: &Config, layout: Layout) -> Result<Arc<[Worker]>, ConnectError> {
        if !layout.is_on_citus() {
            if !config.database_worker_urls.is_empty() {
                tracing::warn!("DATABASE_WORKER_URLS is of no use: the logs are not distributed over a Citus cluster");
            }
            return Ok([].into());
        }
        let worker = |url| Ok(Worker { address: WorkerAddress::of(url)?, connector: Connector::new(url, NAME)? });
        config.database_worker_urls.iter().map(worker).collect()
    }

    /// Where its URL leads.
    async fn place(&self) -> Result<Option<String>, AskError> {
        let session = self.connector.open().await?;
        let messages = session.simple_query(PLACE).await?;
        session.close().await;
        Ok(messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }
}

/// Why it is not known of a server whether it is of the cluster.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("it cannot be reached")]
    Connect(#[from] ConnectError),
    #[error("it does not say where it is")]
    Database(#[from] tokio_postgres::Error),
    #[error("it does not answer")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

/// Which servers are of the cluster, as far as that is known.
#[derive(Debug)]
pub(super) struct Admission {
    coordinator: Connector,
    /// Those that are not let in yet, by their places in the settings.
    outside: Vec<Outside>,
}

#[derive(Debug)]
struct Outside {
    place: usize,
    worker: Worker,
    next: Instant,
    pause: Duration,
    /// What was said of why it is not used: that it is another cluster's, or something else.
    said: Option<bool>,
}

impl Admission {
    /// None is let in yet. `coordinator`: to be asked which servers it has.
    pub(super) fn new(coordinator: Connector, workers: &[Worker]) -> Admission {
        let next = Instant::now();
        let outside = |(place, worker): (usize, &Worker)| Outside {
            place,
            worker: worker.clone(),
            next,
            pause: PAUSES.0,
            said: None,
        };
        Admission { coordinator, outside: workers.iter().enumerate().map(outside).collect() }
    }

    /// Asks those that are not let in yet, as far as it is time to, and answers which are from here on.
    pub(super) async fn look(&mut self) -> Vec<usize> {
        let now = Instant::now();
        let coordinator = &self.coordinator;
        let due = self.outside.iter().filter(|outside| outside.next <= now);
        let asking =
            due.map(|outside| async move { (outside.place, is_of_cluster(coordinator, &outside.worker).await) });
        let mut admitted = Vec::new();
        for (place, answer) in futures_util::future::join_all(asking).await {
            match answer {
                Ok(true) => admitted.push(place),
                answer => {
                    let asked = self.outside.iter_mut().find(|outside| outside.place == place);
                    asked.into_iter().for_each(|outside| outside.stays(&answer));
                }
            }
        }
        self.outside.retain(|outside| !admitted.contains(&outside.place));
        admitted
    }
}

impl Outside {
    fn stays(&mut self, answer: &Result<bool, AskError>) {
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSES.1);
        let is_foreign = answer.is_ok();
        if self.said.replace(is_foreign) == Some(is_foreign) {
            return;
        }
        let server = self.worker.address.to_string();
        match answer {
            Ok(_) => tracing::error!(
                server,
                "DATABASE_WORKER_URLS names a server that is not of the Citus cluster of DATABASE_URL: it is not used"
            ),
            Err(error) => tracing::warn!(
                server,
                error = error as &dyn std::error::Error,
                "a server of DATABASE_WORKER_URLS is not used until it has shown that it is of the Citus cluster"
            ),
        }
    }
}

async fn is_of_cluster(coordinator: &Connector, worker: &Worker) -> Result<bool, AskError> {
    let place = timeout(STEP_TIMEOUT, worker.place()).await??;
    let places = timeout(2 * STEP_TIMEOUT, places(coordinator, &worker.address)).await??;
    Ok(place.is_some_and(|place| places.contains(&place)))
}

/// What the coordinator says of its servers.
async fn places(coordinator: &Connector, address: &WorkerAddress) -> Result<Vec<String>, AskError> {
    let session = coordinator.open().await?;
    let port = i32::from(address.port);
    let rows =
        session.query_typed(PLACES, &[(&address.host, Type::TEXT), (&port, Type::INT4), (&PLACE, Type::TEXT)]).await?;
    session.close().await;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}
