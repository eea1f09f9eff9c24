//! The servers of `DATABASE_WORKER_URLS`. Each is used once it has proven to belong to the Citus cluster that
//! `DATABASE_URL` leads to. A server of another cluster would accept pushes too, and keep them there. So would one that
//! has left: whenever the cluster's servers change, all have to prove it again.
//!
//! The proof is the server's start time, read in two ways: from the server itself by its URL, and through the
//! coordinator, which connects to it as Citus does. Names and ports are no proof, nor is what is stored: a copy of a
//! cluster has the same. Each connection to it has to show the same start time ([`Admitted`]), because its URL may lead
//! to another server later, and one with several hosts to another of them.

use super::fitness;
use super::schema::STEP_TIMEOUT;
use crate::config::{Config, Host, PostgresUrl, Secret};
use crate::db::{Admitted, ConnectError, Connector, IDENTITY, identity};
use crate::store::layout::Layout;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_postgres::types::Type;

/// The application_name of the connections.
const NAME: &str = "mana-sync workers";
/// Initial and maximum pause before a server that was not admitted is checked again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// How often to check where the URL of an admitted server leads, while its connections stay open.
const RECHECK_PERIOD: Duration = Duration::from_secs(10);

/// The identities of the server that Citus knows by this name and port, or, if there is none, of all of its servers;
/// and of the coordinator.
const IDENTITIES: &str = "
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

/// A server of a Citus cluster, by the name and port under which Citus and our settings know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct WorkerAddress {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for WorkerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') && !self.host.starts_with('/') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl WorkerAddress {
    fn of(url: &Secret) -> Result<WorkerAddress, ConnectError> {
        let url = PostgresUrl::parse(url.expose())?;
        // If a worker has several hosts, the first is the one that Citus may know.
        let first = url.hosts.into_iter().next();
        Ok(first.map_or(WorkerAddress { host: String::new(), port: 0 }, |endpoint| match endpoint.host {
            Host::Unix(folder) => WorkerAddress { host: folder.display().to_string(), port: endpoint.port },
            Host::Tcp { name, .. } => WorkerAddress { host: name, port: endpoint.port },
        }))
    }
}

/// A server from the settings.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) address: WorkerAddress,
    connector: Connector,
    /// The schemas of the buckets.
    schemas: Arc<[String]>,
}

impl Worker {
    /// Returns the servers of `DATABASE_WORKER_URLS`, in order; empty if the buckets are not on Citus.
    pub(super) fn all(config: &Config, layout: Layout) -> Result<Arc<[Worker]>, ConnectError> {
        if !layout.is_on_citus() {
            if !config.database_worker_urls.is_empty() {
                tracing::warn!("DATABASE_WORKER_URLS has no effect: the logs are not distributed over a Citus cluster");
            }
            return Ok([].into());
        }
        let schemas: Arc<[String]> = layout.schemas().into();
        let worker = |url| {
            let (address, connector) = (WorkerAddress::of(url)?, Connector::new(url, NAME)?);
            Ok(Worker { address, connector, schemas: schemas.clone() })
        };
        config.database_worker_urls.iter().map(worker).collect()
    }

    /// Returns the identity of the database that its URL leads to.
    async fn identity(&self) -> Result<Option<String>, AskError> {
        let session = self.connector.open_orderly().await?;
        let identity = identity(&session).await?;
        session.close().await;
        Ok(identity)
    }

    /// The same. Fails if the URL's role lacks rights to the buckets.
    async fn identity_if_fit(&self) -> Result<Option<String>, AskError> {
        let session = self.connector.open_orderly().await?;
        let identity = identity(&session).await?;
        let rights = session.query_typed(fitness::RIGHTS.text, &[(&&self.schemas[..], Type::TEXT_ARRAY)]).await?;
        session.close().await;
        match rights.first().map(|row| row.try_get(0)).transpose()?.flatten() {
            Some(missing) => Err(AskError::Rights(missing)),
            None => Ok(identity),
        }
    }
}

/// The reason that it is unknown whether a server belongs to the cluster.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("it cannot be reached")]
    Connect(#[from] ConnectError),
    #[error("it does not say which server it is")]
    Database(#[from] tokio_postgres::Error),
    #[error("the role of its URL lacks rights there: {0} (deploy/grants.sql grants all that it needs)")]
    Rights(String),
    #[error("it does not answer")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

/// The servers that are known to belong to the cluster.
#[derive(Debug)]
pub(super) struct Admission {
    coordinator: Connector,
    workers: Arc<[Worker]>,
    /// The servers not admitted yet.
    outside: Vec<Outside>,
    inside: Vec<Inside>,
}

/// A server that is not admitted.
#[derive(Debug)]
struct Outside {
    /// Its index in the settings.
    place: usize,
    worker: Worker,
    next: Instant,
    pause: Duration,
    /// The last reason that was logged for not using it: true if it belongs to another cluster.
    said: Option<bool>,
}

/// A server that is admitted.
#[derive(Debug)]
struct Inside {
    place: usize,
    identity: Arc<str>,
    next: Instant,
}

impl Admission {
    /// Starts without any admitted server. `coordinator` is asked for its servers.
    pub(super) fn new(coordinator: Connector, workers: Arc<[Worker]>) -> Admission {
        let mut admission = Admission { coordinator, workers, outside: Vec::new(), inside: Vec::new() };
        admission.start_over();
        admission
    }

    /// Considers no server admitted any more.
    pub(super) fn start_over(&mut self) {
        self.inside.clear();
        self.outside = (0..self.workers.len()).filter_map(|place| self.outside_at(place)).collect();
    }

    /// Considers a server not admitted any more. Returns false if it was not.
    pub(super) fn expel(&mut self, place: usize) -> bool {
        let count = self.inside.len();
        self.inside.retain(|inside| inside.place != place);
        let was_inside = self.inside.len() < count;
        if let (true, Some(outside)) = (was_inside, self.outside_at(place)) {
            let server = outside.worker.address.to_string();
            tracing::info!(
                server,
                "the URL of a worker leads to another server than before, or to one that was restarted: it is checked again"
            );
            self.outside.push(outside);
        }
        was_inside
    }

    fn outside_at(&self, place: usize) -> Option<Outside> {
        let worker = self.workers.get(place)?.clone();
        Some(Outside { place, worker, next: Instant::now(), pause: PAUSES.0, said: None })
    }

    /// Checks the servers that are due. Returns those, by index, that may be used now, or may no longer be used.
    pub(super) async fn look(&mut self) -> Vec<(usize, Admitted)> {
        let mut changes: Vec<_> = self.replaced().await.into_iter().map(|place| (place, Admitted::Nobody)).collect();
        changes.retain(|(place, _)| self.expel(*place));
        let now = Instant::now();
        let coordinator = &self.coordinator;
        let due = self.outside.iter().filter(|outside| outside.next <= now);
        let asking = due.map(|outside| async move { (outside.place, proven(coordinator, &outside.worker).await) });
        for (place, answer) in futures_util::future::join_all(asking).await {
            match answer {
                Ok(Some(identity)) => {
                    let identity: Arc<str> = identity.into();
                    self.outside.retain(|outside| outside.place != place);
                    self.inside.push(Inside { place, identity: identity.clone(), next: now + RECHECK_PERIOD });
                    changes.push((place, Admitted::Only(identity)));
                }
                answer => {
                    let asked = self.outside.iter_mut().find(|outside| outside.place == place);
                    asked.into_iter().for_each(|outside| outside.stays(&answer));
                }
            }
        }
        changes
    }

    /// Returns the admitted servers whose URLs lead elsewhere by now. Connections that are open would not show it.
    async fn replaced(&mut self) -> Vec<usize> {
        let now = Instant::now();
        let mut asking = Vec::new();
        for inside in self.inside.iter_mut().filter(|inside| inside.next <= now) {
            inside.next = now + RECHECK_PERIOD;
            let Some(worker) = self.workers.get(inside.place) else { continue };
            asking.push(async move {
                let found = timeout(STEP_TIMEOUT, worker.identity()).await.ok()?.ok()?;
                (found.as_deref() != Some(&*inside.identity)).then_some(inside.place)
            });
        }
        futures_util::future::join_all(asking).await.into_iter().flatten().collect()
    }
}

impl Outside {
    fn stays(&mut self, answer: &Result<Option<String>, AskError>) {
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
                "DATABASE_WORKER_URLS names a server that does not belong to the Citus cluster of DATABASE_URL: it is not used"
            ),
            Err(error) => tracing::warn!(
                server,
                error = error as &dyn std::error::Error,
                "a server of DATABASE_WORKER_URLS is not used until it has shown that it can serve and belongs to the Citus cluster"
            ),
        }
    }
}

/// Returns a server's identity; `None` if it does not belong to the coordinator's cluster.
async fn proven(coordinator: &Connector, worker: &Worker) -> Result<Option<String>, AskError> {
    let identity = timeout(STEP_TIMEOUT, worker.identity_if_fit()).await??;
    let of_cluster = timeout(2 * STEP_TIMEOUT, identities(coordinator, &worker.address)).await??;
    Ok(identity.filter(|identity| of_cluster.contains(identity)))
}

/// Returns the identities of the coordinator's servers.
async fn identities(coordinator: &Connector, address: &WorkerAddress) -> Result<Vec<String>, AskError> {
    let session = coordinator.open().await?;
    let port = i32::from(address.port);
    let rows = session
        .query_typed(IDENTITIES, &[(&address.host, Type::TEXT), (&port, Type::INT4), (&IDENTITY, Type::TEXT)])
        .await?;
    session.close().await;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}
