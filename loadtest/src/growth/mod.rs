//! Measures how cost grows with size: the same few measurements with little and with much, and a limit on the ratio of
//! the last to the first.
//!
//! ```text
//! stored, replicas, connections, names, log, edits, days, replays: one file for each dimension ─► report::Growth ─► table, page
//! limits: what each may grow by, and why        baseline: dataset, visits, pushes, which both use
//! ```
//! It starts and stops its own replicas ([`crate::local`]); PostgreSQL and the token issuer come from
//! `mana-dev with-services`. Points of a dimension are measured alternately if they can run side by side, so that other
//! work of the machine slows all of them; those of `connections` are measured one after the other.

pub(crate) mod connections;
pub(crate) mod days;
pub(crate) mod edits;
pub(crate) mod encodings;
pub(crate) mod limits;
pub(crate) mod listeners;
pub(crate) mod log;
pub(crate) mod names;
pub(crate) mod replays;
pub(crate) mod replicas;
pub mod report;
mod run;
pub(crate) mod stored;
pub mod table;
pub(crate) mod warmed;

use std::time::Duration;

use crate::report::model::Growth;

pub use run::{Outcome, run};

/// Turns of single requests cost nothing to start, and the shorter they are, the more alike is the machine's other work
/// during each.
const SHORTER: usize = 5;

/// The dimensions by name, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dimension {
    /// Latency of a push and a small pull, by stored changes of all users.
    Stored,
    /// Pushes per second, and their processor time, by replicas of one database; and the cost and delay of
    /// notifications, up to hundreds of simulated replicas.
    Replicas,
    /// Memory, processor time and wake-ups, by idle WebSockets of one replica.
    Connections,
    /// Latency of a push and a small pull, by apps, and by tables of one app.
    Names,
    /// Latency of a push and a small pull, and the rate of a fresh device's pull, by the length of one user's log.
    Log,
    /// Time and bytes of a fresh device by the edits of the same records, trimmed and not.
    Edits,
    /// Size of the tables, by days of editing the same records.
    Days,
    /// Rows, bytes and a fresh device's time for the histories in `loadtest/data`, untrimmed and trimmed.
    Replays,
}

/// The sizes to measure, and how thoroughly. All sizes ascend.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The dimensions to measure; all of them if empty.
    pub only: Vec<Dimension>,
    /// Stored changes of all users.
    pub stored: Vec<u64>,
    /// Real replicas.
    pub replicas: Vec<usize>,
    /// Simulated replicas, for notifications.
    pub listeners: Vec<usize>,
    /// Idle WebSockets.
    pub connections: Vec<usize>,
    /// Apps, and tables.
    pub names: Vec<u64>,
    /// Changes in one log; whole thousands.
    pub log: Vec<u64>,
    /// Edits of the same records, in one log.
    pub edits: Vec<u64>,
    /// Days of editing; the first is longer than a change stays whole.
    pub days: Vec<u64>,
    /// The number of times each point is measured, alternately; five times as many if requests are sent one at a time.
    pub turns: usize,
    /// Requests of each kind in such a shorter turn.
    pub requests: usize,
    /// Duration of a turn that sends as many pushes as possible.
    pub length: Duration,
    /// Time for which idle WebSockets are observed.
    pub idle: Duration,
}

impl Plan {
    /// The plan by which limits are judged.
    pub fn thorough() -> Self {
        Self {
            only: Vec::new(),
            stored: vec![50_000, 500_000, 5_000_000],
            replicas: vec![1, 2, 4, 8],
            listeners: vec![1, 3, 10, 30, 100, 200],
            connections: vec![100, 1_000, 10_000],
            names: vec![1, 10, 100, 1_000],
            log: vec![10_000, 100_000, 1_000_000],
            edits: vec![100_000, 300_000, 1_000_000],
            days: vec![10, 20, 30, 60],
            turns: 4,
            requests: 200,
            length: Duration::from_secs(5),
            idle: Duration::from_secs(30),
        }
    }

    /// Shorter, with more noise, and with fewer points: most of the largest are left out.
    pub fn quick() -> Self {
        Self {
            stored: vec![50_000, 500_000],
            replicas: vec![1, 2, 8],
            listeners: vec![1, 10, 100],
            connections: vec![100, 1_000],
            names: vec![1, 30, 1_000],
            log: vec![10_000, 100_000],
            edits: vec![100_000, 300_000],
            days: vec![10, 20, 30],
            turns: 2,
            requests: 100,
            length: Duration::from_secs(3),
            idle: Duration::from_secs(10),
            ..Self::thorough()
        }
    }

    /// Returns the turns for single requests.
    pub fn visits(&self) -> Visits {
        Visits { turns: self.turns * SHORTER, requests: self.requests }
    }

    fn wants(&self, dimension: Dimension) -> bool {
        self.only.is_empty() || self.only.contains(&dimension)
    }
}

/// Turns of single requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visits {
    /// Turns of pushes, and as many of pulls.
    pub turns: usize,
    /// Requests per turn.
    pub requests: usize,
}

/// A measured dimension.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Its measurements.
    pub growth: Growth,
    /// The load of the generator's busiest thread, as a fraction of its time; none if it waited for one answer after
    /// the other.
    pub generator_busy: Option<f64>,
}

/// Gets a line for each point as soon as it is measured.
pub type Log<'a> = &'a (dyn Fn(&str) + Sync);
