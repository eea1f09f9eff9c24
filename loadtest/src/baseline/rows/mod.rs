//! The lines of the table, one file for each way of measuring.

pub(crate) mod compacting;
pub(crate) mod fanout;
pub(crate) mod hydrate;
pub(crate) mod idle;
pub(crate) mod paced;
pub(crate) mod pushes;
pub(crate) mod stored;
pub(crate) mod wakeup;

use crate::report::model::Ratio;

/// The lines by name, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Pushes of one change, and of ten, against pgbench with the same statement.
    Pushes,
    /// Pushes while logs are trimmed, against the same with trimming off.
    Compacting,
    /// Pushes with three replicas listening, against the same with nothing published.
    Fanout,
    /// What publishing costs PostgreSQL for a push where there are few, against the same with nothing published.
    Paced,
    /// From a commit to a wake-up through another replica, against a bare notification.
    Wakeup,
    /// Memory of idle WebSockets and streams.
    Idle,
    /// Rows of a fresh device's pull, against COPY.
    Hydrate,
    /// Latency of pushes and pulls with much stored, against little.
    Stored,
}

/// A line that was measured.
#[derive(Clone, Debug)]
pub struct Row {
    /// Our number beside the baseline's.
    pub ratio: Ratio,
    /// How it came about: each round, and what to bear in mind.
    pub note: String,
    /// The busiest that a thread of the generator was, as a share of its time.
    pub generator_busy: f64,
}
