//! Operators' commands that work on the database without a running replica: `mana-sync compact`, `distribute`, `why`,
//! `usage`, `export`, `erase`. Also `health`, which asks a replica.

mod compact;
mod distribute;
mod erase;
mod export;
mod health;
mod usage;
mod why;

pub use compact::{CompactArgs, run as compact};
pub use distribute::{DistributeArgs, run as distribute};
pub use erase::{EraseArgs, run as erase};
pub use export::{ExportArgs, run as export};
pub use health::{HealthArgs, HealthError, Readiness, run as health};
pub use usage::{UsageArgs, run as usage};
pub use why::{WhyArgs, run as why};

use crate::output::read_or_not;
use crate::store::compaction::CompactionError;
use crate::store::distribute::DistributeError;
use std::io;

/// The reasons why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A database operation failed.
    #[error("a database operation failed")]
    Store(#[from] CompactionError),
    /// The logs were not distributed.
    #[error("the logs were not distributed")]
    Distribute(#[from] DistributeError),
    /// Cannot write the output.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// Cannot read the answer.
    #[error("cannot read the answer")]
    Input(#[source] io::Error),
    /// Nothing is stored for the record.
    #[error("nothing is stored for record {record:?} in table {table:?} of this user and app")]
    NoRecord {
        /// The table.
        table: String,
        /// The record.
        record: String,
    },
    /// No change has written the field.
    #[error("no change has written the field {0:?} of this record")]
    NoField(String),
    /// Some logs could not be trimmed; the others were.
    #[error("{failed} logs could not be trimmed, see above; the others were")]
    NotTrimmed {
        /// The number of logs.
        failed: u64,
    },
    /// The logs of some buckets could not be trimmed; those of the others were, apart from some.
    #[error("the logs of {buckets} buckets, and {failed} others, could not be trimmed, see above; the rest were")]
    BucketsNotTrimmed {
        /// The number of buckets.
        buckets: u64,
        /// The number of logs of other buckets.
        failed: u64,
    },
    /// Erasing was not confirmed.
    #[error("nothing was erased: pass --yes, or confirm on a terminal")]
    NotConfirmed,
}

/// Maps the result of writing output; a reader that stops early is not an error.
fn written(result: io::Result<()>) -> Result<(), CommandError> {
    read_or_not(result).map_err(CommandError::Output)
}
