//! The buckets: each is a [`Store`] with its own pool and batcher, so a bucket that is unavailable or busy affects only
//! its own users.

use super::citus::Placements;
use super::fitness::{Doubt, Fitness, FitnessCheck, Unfit};
use super::layout::Layout;
use super::workers::{Admission, Worker, WorkerAddress};
use super::{Bucket, Store, StoreError};
use crate::clock::Clock;
use crate::config::{Config, DatabaseConfig, PostgresUrl, Secret};
use crate::db::{Admitted, ConnectError, Connector, PoolStatus};
use crate::limits::heavy::HeavyWork;
use crate::limits::reads::ReadShares;
use crate::protocol::UserKey;
use crate::telemetry::Metrics;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Minimum number of connections in a bucket's pool: a push stored alone must not hold up all others.
const MIN_CONNECTIONS: usize = 2;
/// Number of connections to the main schema of a distributed database.
const MAIN_CONNECTIONS: usize = 1;

/// How often the columns of the tables are checked. With many buckets it takes longer than the other checks.
const COLUMNS_PERIOD: Duration = Duration::from_secs(5);

/// Interval at which the coordinator is asked for the locations of the buckets.
const PLACEMENTS_PERIOD: Duration = Duration::from_secs(2);

/// The buckets of a database. Clones share them.
#[derive(Clone, Debug)]
pub struct Buckets {
    layout: Layout,
    stores: Arc<[Store]>,
    /// For queries about the database as a whole. The only bucket, if there is just one.
    main: Store,
    /// The workers of a Citus cluster that pushes and reads go to; empty if they go to the coordinator.
    workers: Arc<[Worker]>,
    /// Used to verify that the workers belong to its cluster.
    coordinator: Connector,
    heavy: HeavyWork,
    /// True if this replica trims, with the role whose rights are checked.
    trims: bool,
    /// When the tables last had all columns.
    columns_complete_at: Arc<Mutex<Option<Instant>>>,
}

/// What is known of the Citus cluster.
struct Cluster {
    admission: Admission,
    /// Its servers, as they were last.
    servers: Option<String>,
    /// Those that are not in the settings and were logged.
    unmatched: HashSet<WorkerAddress>,
}

impl Buckets {
    /// Creates the buckets of a layout; connections are made on demand. The buckets share the configured number of
    /// connections, but each has at least two.
    pub fn new(
        config: &Config,
        layout: Layout,
        metrics: &Arc<Metrics>,
        clock: &Clock,
    ) -> Result<Buckets, ConnectError> {
        let size = config.database_pool_size as usize;
        let heavy = HeavyWork::default();
        let name = format!("mana-sync {}", config.replica_name());
        let coordinator = Connector::new(&config.database.database_url, &name)?;
        // The rights of another role cannot be checked from here.
        let trims = !config.compaction.compact_after_ms.is_zero() && has_one_role(&config.database)?;
        let columns_complete_at = Arc::default();
        if layout == Layout::ONE {
            let main = Store::open(config, size, Bucket::default(), heavy.clone(), metrics.clone(), clock.clone())?;
            let stores = [main.clone()].into();
            return Ok(Buckets {
                layout,
                stores,
                main,
                workers: [].into(),
                coordinator,
                heavy,
                trims,
                columns_complete_at,
            });
        }
        let each = (size / layout.count()).max(MIN_CONNECTIONS);
        let open = |schema| {
            let bucket = Bucket { schema: Some(schema), on_citus: layout.is_on_citus() };
            Store::open(config, each, bucket, heavy.clone(), metrics.clone(), clock.clone())
        };
        let stores = layout.schemas().into_iter().map(open).collect::<Result<_, _>>()?;
        let main =
            Store::open(config, MAIN_CONNECTIONS, Bucket::default(), heavy.clone(), metrics.clone(), clock.clone())?;
        let workers = Worker::all(config, layout)?;
        Ok(Buckets { layout, stores, main, workers, coordinator, heavy, trims, columns_complete_at })
    }

    /// Returns how users are distributed over the buckets.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns the bucket that holds a user's logs.
    pub fn of(&self, user: UserKey) -> &Store {
        // A bucket's number is below the number of stores; the main store is never used instead.
        self.stores.get(self.layout.bucket_of(user)).unwrap_or(&self.main)
    }

    /// Heavy work, run in turns: one queue for the whole replica.
    pub fn heavy(&self) -> &HeavyWork {
        &self.heavy
    }

    /// The number of connections one user may read on at once. A user reads in one bucket, and all pools are of one
    /// size.
    pub fn read_shares(&self) -> ReadShares {
        ReadShares::new(self.stores.iter().map(Store::max_connections).min().unwrap_or(1))
    }

    /// Returns all buckets, in order.
    pub fn all(&self) -> &[Store] {
        &self.stores
    }

    /// Checks whether the database can serve this replica. Only the main store is asked, not each bucket.
    ///
    /// # Errors
    /// The database does not respond.
    pub async fn fitness(&self) -> Result<Fitness, StoreError> {
        let pools: usize = self.stores.iter().map(Store::max_connections).sum();
        let needed = match self.layout {
            Layout::ONE => pools,
            // Connections to workers do not count against this server.
            _ if !self.workers.is_empty() => self.main.max_connections(),
            _ => pools + self.main.max_connections(),
        };
        let check = FitnessCheck { pool: self.main.pool.clone() };
        let mut fitness = check.fitness(self.layout, needed, self.trims).await?;
        if fitness.unfit.as_ref().is_none_or(Unfit::is_of_background) {
            let missing = self.missing_columns(&check).await?;
            fitness.unfit = missing.map(Unfit::Columns).or(fitness.unfit);
        }
        Ok(fitness)
    }

    /// Returns the missing columns. If there were none a moment ago, they are not looked up.
    async fn missing_columns(&self, check: &FitnessCheck) -> Result<Option<String>, StoreError> {
        let complete_at = || self.columns_complete_at.lock().unwrap_or_else(PoisonError::into_inner);
        if complete_at().is_some_and(|at| at.elapsed() < COLUMNS_PERIOD) {
            return Ok(None);
        }
        let missing = check.missing_columns(self.layout).await?;
        *complete_at() = missing.is_none().then(Instant::now);
        Ok(missing)
    }

    /// Returns the defaults of the database with which it serves, but not as promised.
    ///
    /// # Errors
    /// The database does not respond.
    pub async fn doubts(&self) -> Result<Vec<Doubt>, StoreError> {
        FitnessCheck { pool: self.main.pool.clone() }.doubts().await
    }

    /// Returns why the last attempt to connect failed, as a sentence for operators; `None` if it succeeded.
    pub fn failure(&self) -> Option<String> {
        self.main.pool.failure()
    }

    /// Tracks which worker has which bucket, and directs each bucket's connections there, until stopped. Buckets may
    /// move while replicas serve; meanwhile, any worker accepts requests for any bucket and forwards them. A server is
    /// used once it is known to belong to the cluster, and only while it does; otherwise, the coordinator is.
    pub async fn follow_placements(self, stopping: CancellationToken) {
        if self.workers.is_empty() {
            return stopping.cancelled().await;
        }
        let admission = Admission::new(self.coordinator.clone(), self.workers.clone());
        let mut cluster = Cluster { admission, servers: None, unmatched: HashSet::new() };
        while stopping.run_until_cancelled(Box::pin(self.look(&mut cluster))).await.is_some() {
            if stopping.run_until_cancelled(tokio::time::sleep(PLACEMENTS_PERIOD)).await.is_none() {
                return;
            }
        }
    }

    async fn look(&self, cluster: &mut Cluster) {
        self.look_up_placements(cluster).await;
        for worker in 0..self.workers.len() {
            if !self.stores.iter().all(|store| store.may_use(worker)) && cluster.admission.expel(worker) {
                self.admit(worker, &Admitted::Nobody);
            }
        }
        for (worker, admitted) in cluster.admission.look().await {
            self.admit(worker, &admitted);
        }
    }

    /// Stops using all workers until each has proven again to belong to the cluster; the coordinator forwards meanwhile.
    /// One that was removed, or replaced by another server, may still accept pushes, which would be lost to their users.
    fn distrust_workers(&self, admission: &mut Admission) {
        tracing::info!(
            "the servers of the Citus cluster have changed: those of DATABASE_WORKER_URLS are checked again"
        );
        for worker in 0..self.workers.len() {
            self.admit(worker, &Admitted::Nobody);
        }
        admission.start_over();
    }

    fn admit(&self, worker: usize, admitted: &Admitted) {
        self.stores.iter().for_each(|store| store.admit(worker, admitted.clone()));
    }

    /// Looks up the placements once. A server that holds buckets but is not in the settings is logged once.
    async fn look_up_placements(&self, cluster: &mut Cluster) {
        let Placements { buckets, servers } = match self.main.placements().await {
            Ok(placements) => placements,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "the coordinator does not say where the buckets are");
                return;
            }
        };
        if servers.is_some() && cluster.servers != servers && std::mem::replace(&mut cluster.servers, servers).is_some()
        {
            self.distrust_workers(&mut cluster.admission);
        }
        let mut preferred = Vec::new();
        for (bucket, store) in self.stores.iter().enumerate() {
            let Some(at) = self.layout.schema(bucket).and_then(|schema| buckets.get(&schema)) else { continue };
            match self.workers.iter().position(|worker| worker.address == *at) {
                Some(server) => preferred.push(store.prefer(server)),
                None if cluster.unmatched.insert(at.clone()) => {
                    let known: Vec<String> = self.workers.iter().map(|worker| worker.address.to_string()).collect();
                    let (server, known) = (at.to_string(), known.join(", "));
                    tracing::warn!(
                        server,
                        known,
                        "Citus has buckets on a server that is not in DATABASE_WORKER_URLS under this name and port: statements for them take a detour"
                    );
                }
                None => {}
            }
        }
        futures_util::future::join_all(preferred).await;
    }

    /// Returns the status of all pools combined.
    pub fn pool_status(&self) -> PoolStatus {
        let none = PoolStatus { open: 0, idle: 0, waiting: 0 };
        self.stores.iter().map(Store::pool_status).fold(none, |all, one| PoolStatus {
            open: all.open + one.open,
            idle: all.idle + one.idle,
            waiting: all.waiting + one.waiting,
        })
    }

    /// Closes the pools within this time. Returns false if some connections were still open by then.
    pub async fn close(&self, limit: Duration) -> bool {
        let each = self.stores.iter().chain([&self.main]).map(|store| store.close(limit));
        futures_util::future::join_all(each).await.into_iter().all(|closed| closed)
    }
}

/// Returns true if both URLs name the same role.
fn has_one_role(database: &DatabaseConfig) -> Result<bool, ConnectError> {
    let role = |url: &Secret| Ok::<_, ConnectError>(PostgresUrl::parse(url.expose())?.user);
    Ok(role(&database.database_url)? == role(database.direct_url())?)
}
