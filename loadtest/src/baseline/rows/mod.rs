//! The rows of the table, one file for each way of measuring.

pub(crate) mod beside;
pub(crate) mod compacting;
pub(crate) mod fanout;
pub(crate) mod hydrate;
pub(crate) mod idle;
pub(crate) mod paced;
pub(crate) mod pushes;
pub(crate) mod stored;
pub(crate) mod wakeup;
pub(crate) mod woken;

use crate::report::model::Ratio;

/// The rows by name, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Pushes of one change and of ten, compared with pgbench running the same statement.
    Pushes,
    /// Pushes while logs are trimmed, compared with trimming off.
    Compacting,
    /// Pushes with three replicas listening, compared with nothing published.
    Fanout,
    /// PostgreSQL's cost of publishing per push at a low rate, compared with nothing published.
    Paced,
    /// From a commit to a wake-up through another replica, compared with a bare notification.
    Wakeup,
    /// From the answer to a push to the wake-up through another replica, at a high rate of pushes.
    Woken,
    /// Memory of idle WebSockets and streams.
    Idle,
    /// Rows of a fresh device's pull, compared with COPY.
    Hydrate,
    /// Latency of pushes and pulls with much stored, compared with little.
    Stored,
    /// Pushes of others while one log's head is locked, and while one user keeps pushing 5 MB, compared with neither. Last:
    /// PostgreSQL has to clean up after it.
    Beside,
}

/// A measured row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Our number and the baseline's.
    pub ratio: Ratio,
    /// Details of the measurement: each round, and caveats.
    pub note: String,
    /// The load of the generator's busiest thread, as a fraction of its time.
    pub generator_busy: f64,
}
