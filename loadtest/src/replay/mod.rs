//! Replays edit histories through a cluster and compares all participants with each other (G1, G2, G3).
//!
//! ```text
//! history ─► author (one task for each clientId, all at once) ─┐
//!    board: which records are there already                    ├─► verdict: devices, readers and fold compared
//!            readers: late by pull, late by push, by stream ───┘                      │
//!                                                                               report
//! ```
//! Each file is one user, with a fresh id on each run. See [`author`] for how a device goes through its lines.

pub(crate) mod author;
pub(crate) mod board;
pub(crate) mod history;
pub(crate) mod progress;
pub(crate) mod readers;
pub(crate) mod report;
mod run;
pub(crate) mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use crate::device::DeviceError;
use crate::fold::FoldError;
use crate::replay::history::HistoryError;
use crate::stream::StreamError;
use crate::token::{TokenError, TokenMint};
use crate::transport::{RetryPolicy, TransportError};

pub use report::{FileReport, ReplayReport};
pub use run::run;

/// What to replay, where, and with which random choices. The same seed makes the same choices, though not the same
/// interleaving.
#[derive(Clone)]
pub struct ReplayOptions {
    /// Histories, `.jsonl` or `.jsonl.gz`.
    pub files: Vec<PathBuf>,
    /// Base URLs of the replicas.
    pub targets: Vec<String>,
    /// Signs the users' tokens.
    pub mint: TokenMint,
    /// The database with `sync_changes`. Without it, devices are compared with each other but not with the stored rows.
    pub database_url: Option<String>,
    /// The seed of the random choices.
    pub seed: u64,
    /// The number of times each file is replayed at once, each time as another user.
    pub users_per_file: usize,
    /// Maximum number of lines that a device pushes at once, as after a while offline. 1: each line is a push.
    pub batch: usize,
    /// The fraction of pushes that are sent twice, as after a lost answer.
    pub lost_answers: f64,
    /// The fraction of pushes after which a device also pulls.
    pub pulls: f64,
    /// Maximum time that a device waits for a record that an earlier line creates.
    pub wait: Duration,
    /// The devices' retries when a request fails.
    pub retry: RetryPolicy,
    /// Shows the progress on stderr.
    pub progress: bool,
}

impl ReplayOptions {
    /// Creates options with the default mix.
    pub fn new(files: Vec<PathBuf>, targets: Vec<String>, mint: TokenMint) -> Self {
        Self {
            files,
            targets,
            mint,
            database_url: None,
            seed: 1,
            users_per_file: 1,
            batch: 8,
            lost_answers: 0.02,
            pulls: 0.05,
            wait: Duration::from_secs(300),
            retry: RetryPolicy::default(),
            progress: false,
        }
    }
}

/// The reasons why a replay could not be finished. What it finds at its end is not an error but in the report.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A history cannot be replayed.
    #[error("a history can't be replayed")]
    History(#[from] HistoryError),
    /// No token for the users.
    #[error("no token for the users")]
    Token(#[from] TokenError),
    /// The HTTP client failed.
    #[error("the HTTP client failed")]
    Transport(#[from] TransportError),
    /// A device could not continue.
    #[error("a device could not continue")]
    Device(#[from] DeviceError),
    /// The reader of a stream could not continue.
    #[error("the stream reader could not continue after {changes} changes")]
    Stream {
        /// The number of changes it had read.
        changes: usize,
        /// The cause.
        #[source]
        source: StreamError,
    },
    /// A stream did not bring everything in time.
    #[error("the stream did not deliver all {expected} changes within {within:?} of the last push")]
    StreamBehind {
        /// The number of changes it should have brought.
        expected: usize,
        /// The time that the replay waited for it.
        within: Duration,
    },
    /// A device did not get a record that another one created.
    #[error("device {client_id} waited {within:?} for {table}/{id}, which line {line} creates")]
    Waited {
        /// The device.
        client_id: String,
        /// The table.
        table: String,
        /// The record.
        id: String,
        /// The line of the history that creates it.
        line: usize,
        /// The time that the device waited.
        within: Duration,
    },
    /// A device pulled a table to its end, but lacks a record that was stored before.
    #[error(
        "device {client_id} pulled {table} to its end and doesn't hold {id}, whose creation (line {line}) was answered \
         with 200 before that pull"
    )]
    Missed {
        /// The device.
        client_id: String,
        /// The table.
        table: String,
        /// The record.
        id: String,
        /// The line of the history that creates it.
        line: usize,
    },
    /// The stored rows could not be read.
    #[error("the stored rows could not be read")]
    Fold(#[from] FoldError),
    /// The database did not do it.
    #[error("the database {what}")]
    Database {
        /// The failure.
        what: &'static str,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// A task of the replay ended unexpectedly.
    #[error("a task of the replay ended unexpectedly")]
    Task(#[from] tokio::task::JoinError),
}
