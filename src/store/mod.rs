//! The log of changes in PostgreSQL: the only place with SQL that reads or writes rows.
//!
//! The log is the truth (G1, G2). [`batch`] stores pushes in one statement ([`push_statements`]) that takes the heads
//! of their logs first; [`batcher`] decides which pushes share a statement, and [`known`] recognizes changes that are
//! sent again. The head's row lock makes pushes to one log commit in cursor order, so a reader of a prefix by cursor
//! has missed nothing. [`delta`] reads pages in separate statements, whose snapshots are newer than any lock taken
//! before. [`heads`] serves the reconciler, [`quotas`] the limits, [`inspect`] operators. [`own_writes`] finds a
//! reader's own writes, [`page_memory`] provides the memory for pages, [`rewinds`] reports a database that went back to
//! an earlier state, [`unstorable`] finds out why PostgreSQL refuses a value, [`visibility`] whether it hides rows.
//! [`schema`] applies and checks migrations, [`takeover`] takes over the previous server's database, [`fitness`] explains
//! why a database cannot serve, [`traced`] connects statements to traces and metrics.
//!
//! A [`Store`] is one bucket: a schema with these tables. [`layout`] maps users to buckets, [`buckets`] holds them,
//! [`distribute`] creates them. [`citus`] has what differs if Citus distributes them, [`workers`] its servers.

mod announcement;
mod batch;
mod batcher;
mod buckets;
mod citus;
pub mod compaction;
mod delta;
pub mod distribute;
mod error;
mod existing;
pub mod fitness;
mod heads;
mod history;
pub mod inspect;
mod known;
mod layout;
pub mod lifecycle;
mod logged_change;
mod merged_tables;
mod migrator;
mod often_written;
mod own_fields;
mod own_rows;
mod own_statements;
mod own_writes;
mod page_memory;
mod page_request;
mod page_rows;
mod page_statements;
mod pages;
mod position;
mod push;
mod push_statements;
mod quotas;
pub mod refused_tokens;
mod rewinds;
pub mod same_database;
pub mod schema;
pub mod takeover;
mod traced;
mod unstorable;
mod visibility;
pub mod why;
mod workers;

pub use announcement::{Announcement, CommitNotice, Told};
pub use buckets::Buckets;
pub use error::StoreError;
pub use existing::ExistingLogs;
pub use heads::{ChangedTable, Head, HeadReader, Heads, LogRange, MAX_LOGS, RangeChanges, RecentHead};
pub use known::{KnownChanges, Pushed};
pub use layout::{Layout, MAX_BUCKETS};
pub use page_memory::{BECOMES, PageMemory};
pub use page_request::{OwnChanges, PageRequest};
pub use pages::{PageLimits, Pages};
pub use position::Stored;
pub use push::Pushes;
pub use quotas::{AppCount, Quotas};

use crate::clock::Clock;
use crate::config::Config;
use crate::db::{Admitted, ConnectError, Connector, Pool, PoolConfig, PoolStatus, Sql};
use crate::limits::heavy::HeavyWork;
use crate::limits::reads::ReadLane;
use crate::telemetry::Metrics;
use batch::BatchInsert;
use batcher::Batcher;
use history::HistoryHorizon;
use often_written::OftenWritten;
use page_request::PAST_ALL;
use push_statements::{PUSH_STATEMENTS, PushStatements};
use rewinds::Rewinds;
use std::sync::Arc;
use std::time::Duration;
use visibility::Visibility;

/// Timeout for locks, such as those of another replica's push to the same log.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for idle transactions.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Planner settings: statements are planned once per connection, and use indexes.
///
/// Planning a push takes PostgreSQL longer than storing it. By default it replans each one, because it estimates that a
/// plan for the given arrays is cheaper than a generic plan. A generic plan must not depend on how much was stored when
/// it was made: planned while a table was small, it would scan the whole table, however much has been added since.
///
/// JIT is off: without sequential scans, a table that can only be scanned as a whole counts as very expensive, and
/// compiling a small query for that took a third of a second.
pub const PLANS: [(&str, &str); 3] =
    [("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off"), ("jit", "off")];

/// The changes of all users and apps of a bucket, divided by purpose.
#[derive(Clone, Debug)]
pub struct Store {
    /// Stores pushes.
    pub pushes: Pushes,
    /// Recognizes changes that are stored already.
    pub known: KnownChanges,
    /// Reads pages.
    pub pages: Pages,
    /// Reads heads.
    pub heads: HeadReader,
    /// Reads what limits are checked against.
    pub quotas: Quotas,
    /// The logs known to exist.
    pub existing: ExistingLogs,
    pool: Pool,
}

/// Returns the store's statements by name, for tests and tools that explain them under [`PLANS`].
pub fn statements() -> Vec<(&'static str, &'static Sql)> {
    let each = [
        push_statements::statements(),
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
    /// Creates a store of the tables that the URL leads to; connections are made on demand.
    pub fn new(config: &Config, metrics: Arc<Metrics>, clock: Clock) -> Result<Store, ConnectError> {
        let heavy = HeavyWork::default();
        Store::open(config, config.database_pool_size as usize, Bucket::default(), heavy, metrics, clock)
    }

    /// Creates a store of a bucket's tables, with this many connections at most.
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
        // Any worker accepts requests for any bucket, and so does the coordinator.
        let workers = config.database_worker_urls.iter().filter(|_| on_citus);
        let urls = workers.chain([&config.database.database_url]);
        let connectors = urls.map(|url| Connector::new(url, &name)).collect::<Result<_, _>>()?;
        let pool = Pool::over(connectors, pool_config(config, connections, bucket));
        if on_citus {
            // Until they have proven to be part of the cluster: see `workers`.
            (0..config.database_worker_urls.len()).for_each(|worker| pool.admit(worker, Admitted::Nobody));
        }
        let limits = PageLimits { changes: config.page_max_changes, bytes: config.page_max_bytes };
        let statements = match on_citus {
            // There is no separate form for logs that exist.
            // Nor one that notifies: replicas listen at the coordinator.
            true => PushStatements {
                any: &citus::PUSH,
                free: &citus::PUSH_FREE,
                present: &citus::PUSH_FREE,
                notifying: None,
            },
            false => PUSH_STATEMENTS,
        };
        let insert =
            BatchInsert { pool: pool.clone(), history: HistoryHorizon::new(config, clock.clone()), statements };
        let existing = ExistingLogs::default();
        let known = KnownChanges { insert, heavy: heavy.clone(), on_citus };
        let waiting = metrics.push_queue.clone();
        let batcher = Batcher::new(connections, waiting, known.clone(), config.queue_timeout_ms, clock.clone());
        Ok(Store {
            pushes: Pushes::new(batcher, config.queue_timeout_ms, clock.clone()),
            known,
            pages: Pages {
                pool: pool.clone(),
                limits,
                rewinds: Rewinds::new(metrics),
                often: OftenWritten::new(),
                heavy,
                clock,
                existing: existing.clone(),
                visibility: Visibility::default(),
                lane: ReadLane::new(connections, config.database_acquire_timeout_ms),
            },
            heads: HeadReader::new(pool.clone()),
            quotas: Quotas::new(pool.clone()),
            existing,
            pool,
        })
    }

    /// Returns the maximum number of connections.
    fn max_connections(&self) -> usize {
        self.pool.max_size()
    }

    /// Returns the current status of the connection pool.
    pub fn pool_status(&self) -> PoolStatus {
        self.pool.status()
    }

    /// Closes the connection pool within this time. Returns false if some connections were still open by then.
    pub async fn close(&self, limit: Duration) -> bool {
        self.pool.close(limit).await
    }
}

/// The location of a bucket's tables.
#[derive(Debug, Default)]
struct Bucket {
    /// Their schema. `None`: wherever the URL leads.
    schema: Option<String>,
    /// True if the schema is a distributed schema of Citus.
    on_citus: bool,
}

fn pool_config(config: &Config, size: usize, bucket: Bucket) -> PoolConfig {
    let statement_timeout = config.database_statement_timeout_ms;
    // Limits for each of our sessions, in milliseconds.
    let limits = [
        ("statement_timeout", statement_timeout),
        ("lock_timeout", LOCK_TIMEOUT.min(statement_timeout)),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
    ];
    let mut settings: Vec<_> = limits.map(|(name, time)| (name, time.as_millis().to_string())).into();
    // As statements and functions expect, whatever the database's default.
    settings.push(("standard_conforming_strings", "on".to_owned()));
    // Some errors are expected, and what row-level security hides is reported by its name.
    settings.extend([("exit_on_error", "off".to_owned()), ("row_security", "on".to_owned())]);
    if config.database_prepare {
        // Pushes to one log wait for each other. At a stricter isolation level, all but one would fail.
        settings.push(("default_transaction_isolation", r"read\ committed".to_owned()));
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
