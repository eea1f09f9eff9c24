//! Compares our numbers with what this machine's PostgreSQL can do without us: each is a ratio of two things measured
//! alternately in one run, so that what slows one slows the other.
//!
//! ```text
//! rows: one file for each row of the table ─► report::Ratio ─► table
//!   pgbench, notify, copy: the baselines        engine: our side        dataset, visits, fill: stored data
//! ```
//! It starts and stops its own replicas ([`crate::local`]); PostgreSQL and the token issuer come from
//! `mana-dev with-services`.

pub(crate) mod copy;
pub(crate) mod dataset;
pub(crate) mod fill;
pub(crate) mod notify;
pub(crate) mod pgbench;
pub mod report;
pub mod rows;
mod run;
pub mod table;
pub(crate) mod visits;

use std::time::Duration;

use crate::engine::closed::LoadError;
use crate::engine::{EndpointError, Failure};
use crate::local::LocalError;
use pgbench::PgbenchError;

pub use run::{Outcome, run};

/// The plan of a run: the rows, and how thoroughly to measure them.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The rows to measure; all of them if empty.
    pub rows: Vec<rows::Name>,
    /// The number of times both sides are measured, alternately.
    pub rounds: usize,
    /// Duration of one measurement of one side.
    pub length: Duration,
    /// Connections that push, and clients of pgbench.
    pub connections: usize,
    /// Users that push.
    pub users: usize,
    /// Idle connections that are held.
    pub idle: usize,
    /// Rows in the log that a fresh device pulls.
    pub hydrated: usize,
    /// Stored changes that count as few and as many.
    pub stored: (u64, u64),
}

impl Plan {
    /// The plan by which goals are judged.
    pub fn thorough() -> Self {
        Self {
            rows: Vec::new(),
            rounds: 3,
            length: Duration::from_secs(5),
            connections: 20,
            users: 1000,
            idle: 10_000,
            hydrated: 100_000,
            stored: (50_000, 5_000_000),
        }
    }

    /// Shorter, with more noise, and with a tenth of the stored changes.
    pub fn quick() -> Self {
        let length = Duration::from_secs(3);
        Self { rounds: 2, length, hydrated: 30_000, stored: (50_000, 500_000), ..Self::thorough() }
    }

    fn wants(&self, row: rows::Name) -> bool {
        self.rows.is_empty() || self.rows.contains(&row)
    }
}

/// The reasons why a row could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// There is no local cluster.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// Pgbench failed.
    #[error("pgbench failed")]
    Pgbench(#[from] PgbenchError),
    /// The load could not be made.
    #[error("the load could not be generated")]
    Load(#[from] LoadError),
    /// A replica cannot be addressed.
    #[error("a replica cannot be addressed")]
    Endpoint(#[from] EndpointError),
    /// A request failed.
    #[error("a request failed")]
    Request(#[from] Failure),
    /// No token for the users.
    #[error("no token for the users")]
    Token(#[from] crate::token::TokenError),
    /// The database did not do it.
    #[error("the database could not {action}")]
    Database {
        /// The action.
        action: &'static str,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A replay did not finish.
    #[error("a replay did not finish")]
    Replay(#[source] Box<crate::replay::ReplayError>),
    /// A page could not be read.
    #[error("a page could not be read")]
    Http(#[source] reqwest::Error),
    /// Nothing was measured.
    #[error("{what}")]
    Nothing {
        /// The problem.
        what: String,
    },
}

/// The median; zero for no values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
    }
}
