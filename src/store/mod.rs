//! The log of changes in PostgreSQL: the only home of SQL that reads or writes rows.
//!
//! The log is the truth (G1, G2). [`batch`] stores pushes in one statement that takes the heads of their logs first;
//! [`push`] and [`queue`] say which share one, [`turns`] orders those that do not, [`known`] recognizes what is sent again. The head's row lock makes pushes to
//! one log commit in the order of their cursors, so whoever reads a prefix by cursor has missed nothing. [`delta`] reads
//! pages in statements of their own, whose snapshot is newer than any lock taken before. [`heads`] answers the
//! reconciler. [`own_writes`] is what a reader wrote itself, [`rewinds`] tells of a database that went back. [`connections`] is the pool; [`lost`] and [`watch`] outlive connections, [`primary`] servers. [`schema`]
//! applies and checks migrations, [`takeover`] brings in the database of the server before us, [`traced`] is how traces
//! and metrics see statements.

mod batch;
pub mod compaction;
mod connections;
mod delta;
mod heads;
mod history;
mod known;
pub mod lifecycle;
mod lost;
mod own_writes;
mod primary;
mod push;
mod queue;
mod rewinds;
pub mod schema;
pub mod takeover;
mod traced;
mod turns;
mod watch;
pub mod why;

pub use delta::{OwnChanges, PageRequest};
pub use heads::{ChangedTable, Head, LogStretch, RecentHead};
pub use known::Pushed;
pub use push::Stored;

use crate::config::Config;
use crate::protocol::merge::UnreadableChange;
use crate::telemetry::Metrics;
use connections::Connections;
use history::HistoryHorizon;
use queue::Queue;
use rewinds::Rewinds;
use sqlx::{PgPool, types::chrono::DateTime, types::chrono::Utc};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use turns::Turns;

/// How a page is bounded.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    /// Changes at most.
    pub changes: u32,
    /// Bytes after which no further change is added.
    pub bytes: u32,
}

/// The changes of all users and apps.
#[derive(Clone, Debug)]
pub struct Store {
    pool: Connections,
    limits: PageLimits,
    /// Statements that run or wait for a connection.
    running: Arc<AtomicUsize>,
    queue: Queue,
    turns: Turns,
    rewinds: Rewinds,
    history: HistoryHorizon,
    /// How long a push waits for its turn.
    patience: Duration,
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, busy, or not a primary: the same request may succeed later.
    #[error("the database cannot be used at the moment")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// Pushes that came before take too long.
    #[error("pushes that came before did not end in time")]
    TurnTimeout,
    /// A value that PostgreSQL cannot represent. Nothing was stored.
    #[error("the database cannot represent a value")]
    Unstorable(#[source] sqlx::Error),
    /// Something that should not happen.
    #[error("the database refused a statement")]
    Failed(#[source] sqlx::Error),
    #[error(transparent)]
    Unreadable(#[from] UnreadableChange),
    /// The task that was storing a push ended early.
    #[error("a push was given up half-way")]
    Abandoned,
    /// The same changes were being stored by somebody else, again and again.
    #[error("the changes of a push were being stored elsewhere at the same time")]
    Contended,
    #[error("the operation {0:?} of a stored change is unknown")]
    UnknownOp(String),
}

impl StoreError {
    /// Whether there was no connection free to ask with.
    pub fn is_busy(&self) -> bool {
        matches!(self, StoreError::Unavailable(error) if matches!(**error, sqlx::Error::PoolTimedOut))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = match &error {
            sqlx::Error::Database(database) => database.code().unwrap_or_default().into_owned(),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_) => return StoreError::Unavailable(error.into()),
            _ => return StoreError::Failed(error),
        };
        // Classes of SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
        match code.as_str() {
            // Read-only: a standby, or a primary that was one.
            "25006" => StoreError::Unavailable(error.into()),
            "54000" | "54001" => StoreError::Unstorable(error),
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

impl Store {
    /// A store whose connections are made when they are needed.
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Result<Store, StoreError> {
        let pool = Connections::new(config)?;
        let limits = PageLimits { changes: config.page_max_changes, bytes: config.page_max_bytes };
        let (turns, patience) = (Turns::default(), config.queue_timeout_ms);
        let rewinds = Rewinds::new(metrics);
        let history = HistoryHorizon::new(config);
        Ok(Store { pool, limits, running: Arc::default(), queue: Queue::default(), turns, rewinds, history, patience })
    }

    /// The pool: for migrations, for the readiness probe, and for tests.
    pub fn pool(&self) -> &PgPool {
        self.pool.pool()
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let ask = async || {
            sqlx::query("select 1").execute(&self.pool).await?;
            Ok(())
        };
        self.despite_loss(ask).await
    }

    /// How full the database's queue of notifications is, from 0 to 1.
    pub async fn notification_queue_usage(&self) -> Result<f64, StoreError> {
        let ask = async || Ok(sqlx::query_scalar("select pg_notification_queue_usage()").fetch_one(&self.pool).await?);
        self.despite_loss(ask).await
    }
}

/// A position in a log as the database has it.
fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::UNIX_EPOCH)
}
