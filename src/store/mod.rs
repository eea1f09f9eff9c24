//! The log of changes in PostgreSQL: the only home of SQL that reads or writes rows.
//!
//! The log is the truth (G1, G2). [`batch`] stores pushes in one statement that takes the heads of their logs first;
//! [`batcher`] says which share one, and [`known`] recognizes what is sent again. The head's row lock makes pushes to one log
//! commit in the order of their cursors, so whoever reads a prefix by cursor has missed nothing. [`delta`] reads
//! pages in statements of their own, whose snapshot is newer than any lock taken before. [`heads`] answers the
//! reconciler, [`quotas`] what limits are held against, [`inspect`] operators. [`own_writes`] is what a reader wrote itself, [`rewinds`] tells of a
//! database that went back. [`schema`] applies and checks migrations, [`takeover`] brings in the database of the server
//! before us, [`fitness`] says why a database cannot serve, [`traced`] is how traces and metrics see statements.
//!
//! A [`Store`] is one bucket: a schema with these tables. [`layout`] says which of them a user is in, [`buckets`] holds them,
//! [`distribute`] makes them. [`citus`] is what differs where Citus distributes them.

mod batch;
mod batcher;
mod buckets;
mod citus;
pub mod compaction;
mod delta;
pub mod distribute;
pub mod fitness;
mod heads;
mod history;
pub mod inspect;
mod known;
mod layout;
pub mod lifecycle;
mod merged_tables;
mod migrator;
mod own_statements;
mod own_writes;
mod page_statements;
mod push;
mod quotas;
mod rewinds;
pub mod same_database;
pub mod schema;
pub mod takeover;
mod traced;
pub mod why;

pub use buckets::Buckets;
use delta::PAST_ALL;
pub use delta::{OwnChanges, PageRequest};
pub use heads::{ChangedTable, Head, Heads, LogRange, MAX_LOGS, RangeChanges, RecentHead};
pub use known::Pushed;
pub use layout::{Layout, MAX_BUCKETS};
pub use push::Stored;
pub use quotas::AppCount;

use crate::clock::Clock;
use crate::config::Config;
use crate::db::{ConnectError, Connector, DbError, Pool, PoolConfig, PoolStatus, Sql};
use crate::limits::heavy::HeavyWork;
use crate::protocol::merge::UnreadableChange;
use crate::telemetry::Metrics;
use batcher::Batcher;
use history::HistoryHorizon;
use rewinds::Rewinds;
use std::sync::Arc;
use std::time::Duration;

/// How long a statement waits for locks, such as those of another replica's push to the same log.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a transaction may do nothing.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);

/// How statements are planned: once for each connection, and by indexes.
///
/// To plan a push takes PostgreSQL longer than to store it. Left to itself it plans each anew, because it believes that a
/// plan for the arrays at hand is cheaper than one for any. A plan that is kept must not depend on how much was stored
/// when it was made: on a table that was small then it would read all of it, whatever has been added.
///
/// Nothing is compiled: a table that can only be read as a whole counts as very costly without sequential scans, and
/// compiling a small query for that took a third of a second.
pub const PLANS: [(&str, &str); 3] =
    [("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off"), ("jit", "off")];

/// How a page is bounded.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    /// Changes at most.
    pub changes: u32,
    /// Bytes of its changes, unless the first alone has more.
    pub bytes: u32,
}

/// The changes of all users and apps of a bucket.
#[derive(Clone, Debug)]
pub struct Store {
    pool: Pool,
    limits: PageLimits,
    batcher: Batcher,
    rewinds: Rewinds,
    history: HistoryHorizon,
    /// How pushes are stored: Citus does not run every statement.
    on_citus: bool,
    /// How long a push waits for its turn.
    queue_timeout: Duration,
    heavy: HeavyWork,
    clock: Clock,
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, busy, or not a primary: the same request may succeed later.
    #[error("the database cannot be used at the moment")]
    Unavailable(#[source] Arc<DbError>),
    /// Pushes that came before took too long.
    #[error("pushes that came before did not end in time")]
    TurnTimeout,
    /// A value that PostgreSQL cannot represent. Nothing was stored.
    #[error("the database cannot represent a value")]
    Unstorable(#[source] DbError),
    /// Something that should not happen.
    #[error("the database refused a statement")]
    Failed(#[source] DbError),
    /// A stored change cannot be read.
    #[error(transparent)]
    Unreadable(#[from] UnreadableChange),
    /// The task that was storing a push ended early.
    #[error("a push was given up half-way")]
    Abandoned,
    /// The same changes were being stored by somebody else, again and again.
    #[error("the changes of a push were being stored elsewhere at the same time")]
    Contended,
    /// A change of so many bytes is to be read, for which its reader has set aside less.
    #[error("a change takes {0} bytes of memory")]
    NeedsMemory(usize),
    /// The operation of a stored change is not known.
    #[error("the operation {0:?} of a stored change is unknown")]
    UnknownOp(String),
}

impl StoreError {
    /// Whether there was no connection free to ask with.
    pub fn is_busy(&self) -> bool {
        matches!(self, StoreError::Unavailable(error) if matches!(**error, DbError::PoolTimeout))
    }

    /// Whether it is about the statement, so that another one may succeed at once: it took too long, or too much.
    pub fn is_about_statement(&self) -> bool {
        match self {
            StoreError::Unavailable(error) => matches!(error.sqlstate(), Some("57014" | "53200")),
            StoreError::Unstorable(_) | StoreError::Failed(_) => true,
            _ => false,
        }
    }
}

impl StoreError {
    /// What an operator is told of it in one sentence, which has nothing of a setting's in it.
    pub fn sentence(&self) -> String {
        match self {
            StoreError::Unavailable(error) => error.sentence(),
            StoreError::Unstorable(error) | StoreError::Failed(error) => error.sentence(),
            _ => self.to_string(),
        }
    }
}

impl From<DbError> for StoreError {
    fn from(error: DbError) -> Self {
        let Some(code) = error.sqlstate() else {
            return match &error {
                // A value that is not what the statement says.
                DbError::Statement(_) if !error.is_disconnect() => StoreError::Failed(error),
                _ => StoreError::Unavailable(error.into()),
            };
        };
        // Classes of SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
        match code {
            // A standby, a primary that was one, or a database that somebody made read-only; tables that are not there or
            // not for us, which an operator may mend.
            "25006" | "42501" | "42P01" | "3F000" => StoreError::Unavailable(error.into()),
            "54000" | "54001" => StoreError::Unstorable(error),
            _ if error.is_disconnect() => StoreError::Unavailable(error.into()),
            _ => match code.get(..2) {
                // No connection or none allowed, statements forgotten by a pooler, deadlock, out of resources, not
                // in the right state, an operator's doing, the system's.
                Some("08" | "26" | "28" | "3D" | "40" | "53" | "55" | "57" | "58") => {
                    StoreError::Unavailable(error.into())
                }
                Some("22") => StoreError::Unstorable(error),
                _ => StoreError::Failed(error),
            },
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        DbError::from(error).into()
    }
}

/// The store's own statements by name, for tests and tools that explain them under [`PLANS`].
pub fn statements() -> Vec<(&'static str, &'static Sql)> {
    let each = [
        batch::statements(),
        delta::statements(),
        fitness::statements(),
        heads::statements(),
        known::statements(),
        own_writes::statements(),
        quotas::statements(),
    ];
    each.concat()
}

impl Store {
    /// A store of the tables where the URL leads, whose connections are made when they are needed.
    pub fn new(config: &Config, metrics: Arc<Metrics>, clock: Clock) -> Result<Store, ConnectError> {
        let heavy = HeavyWork::default();
        Store::open(config, config.database_pool_size as usize, Bucket::default(), heavy, metrics, clock)
    }

    /// The same with so many connections at most, of the tables of a bucket.
    fn open(
        config: &Config,
        connections: usize,
        bucket: Bucket,
        heavy: HeavyWork,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Result<Store, ConnectError> {
        let name = format!("mana-sync {}", config.replica_name());
        let on_citus = bucket.on_citus;
        // Any of the workers takes any bucket, and so does the coordinator.
        let workers = config.database_worker_urls.iter().filter(|_| on_citus);
        let urls = workers.chain([&config.database.database_url]);
        let connectors = urls.map(|url| Connector::new(url, &name)).collect::<Result<_, _>>()?;
        let pool = Pool::over(connectors, pool_config(config, connections, bucket));
        let limits = PageLimits { changes: config.page_max_changes, bytes: config.page_max_bytes };
        let batcher = Batcher::new(connections);
        let rewinds = Rewinds::new(metrics);
        let history = HistoryHorizon::new(config, clock.clone());
        let queue_timeout = config.queue_timeout_ms;
        Ok(Store { pool, limits, batcher, rewinds, history, on_citus, queue_timeout, heavy, clock })
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        static PING: Sql = Sql { text: "select 1", types: &[] };
        self.pool.query(&PING, &[]).await?;
        Ok(())
    }

    /// Connections, at most.
    fn max_connections(&self) -> usize {
        self.pool.max_size()
    }

    /// How the pool of connections is used now.
    pub fn pool_status(&self) -> PoolStatus {
        self.pool.status()
    }

    /// Closes the pool of connections, within so much time. False if some were not closed by then.
    pub async fn close(&self, limit: Duration) -> bool {
        self.pool.close(limit).await
    }
}

/// Where the tables of a bucket are.
#[derive(Debug, Default)]
struct Bucket {
    /// Their schema; none: where the URL leads.
    schema: Option<String>,
    /// Whether the schema is a distributed one of Citus.
    on_citus: bool,
}

fn pool_config(config: &Config, size: usize, bucket: Bucket) -> PoolConfig {
    let statement_timeout = config.database_statement_timeout_ms;
    // What every session of ours is held to, in milliseconds.
    let limits = [
        ("statement_timeout", statement_timeout),
        ("lock_timeout", LOCK_TIMEOUT.min(statement_timeout)),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
    ];
    let mut settings: Vec<_> = limits.map(|(name, time)| (name, time.as_millis().to_string())).into();
    if config.database_prepare {
        let plans = if bucket.on_citus { citus::PLANS } else { PLANS };
        settings.extend(plans.map(|(name, value)| (name, value.to_owned())));
    }
    settings.extend(bucket.schema.map(|schema| ("search_path", schema)));
    PoolConfig {
        size,
        acquire_timeout: config.database_acquire_timeout_ms,
        statement_timeout,
        settings,
        prepare: config.database_prepare,
    }
}
