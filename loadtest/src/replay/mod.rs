//! Replays edit histories through a cluster and compares everybody with everybody (G1, G2, G3).
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

/// What to replay, where and how wildly. The same seed draws the same choices, though not the same interleaving.
#[derive(Clone)]
pub struct ReplayOptions {
    /// Histories, `.jsonl` or `.jsonl.gz`.
    pub files: Vec<PathBuf>,
    /// Base URLs of the replicas.
    pub targets: Vec<String>,
    /// Signs the users' tokens.
    pub mint: TokenMint,
    /// Where `sync_changes` is. Without it, devices are compared with each other but not with the stored rows.
    pub database_url: Option<String>,
    /// Draws the choices.
    pub seed: u64,
    /// Each file is replayed this many times at once, as as many users.
    pub users_per_file: usize,
    /// The most lines that a device pushes at once, after a while offline. 1: each line is a push.
    pub batch: usize,
    /// The share of pushes that are sent twice, as after a lost answer.
    pub lost_answers: f64,
    /// The share of pushes after which a device pulls as well.
    pub pulls: f64,
    /// How long a device waits at most for a record that an earlier line creates.
    pub wait: Duration,
    /// What devices do when a request fails.
    pub retry: RetryPolicy,
    /// Show how far it is on stderr.
    pub progress: bool,
}

impl ReplayOptions {
    /// The default mix.
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

/// Why a replay did not come to its end. What it finds at its end is not an error but in the report.
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
    /// A device could not go on.
    #[error("a device could not go on")]
    Device(#[from] DeviceError),
    /// The reader of a stream could not go on.
    #[error("the stream reader could not go on after {changes} changes")]
    Stream {
        /// How many changes it had read.
        changes: usize,
        /// Why.
        #[source]
        source: StreamError,
    },
    /// A stream did not bring everything in time.
    #[error("the stream did not bring all of {expected} changes within {within:?} of the last push")]
    StreamBehind {
        /// How many changes it should have brought.
        expected: usize,
        /// How long it was waited for.
        within: Duration,
    },
    /// A device did not get a record that another one made.
    #[error("device {client_id} waited {within:?} for {table}/{id}, which line {line} creates")]
    Waited {
        /// The device.
        client_id: String,
        /// The table.
        table: String,
        /// The record.
        id: String,
        /// The line of the history that makes it.
        line: usize,
        /// How long it was waited for.
        within: Duration,
    },
    /// A device pulled a table to its end, and lacks a record that was stored before.
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
        /// The line of the history that makes it.
        line: usize,
    },
    /// The stored rows could not be had.
    #[error("the stored rows could not be had")]
    Fold(#[from] FoldError),
    /// The database did not do it.
    #[error("the database {what}")]
    Database {
        /// What it did not do.
        what: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A task of the replay ended by itself.
    #[error("a task of the replay ended by itself")]
    Task(#[from] tokio::task::JoinError),
}
