//! Trimming logs in place, so that a log costs what is alive in it: see [`crate::protocol::trim`] for the rule.
//!
//! A log is due once rows of it have been older than the horizon for a while ([`due`]). It is trimmed in pieces, each a
//! transaction that looks at the records of the next few hundred rows, and at all rows of these ([`piece`]), bounded in rows
//! and bytes; an advisory lock of the log lets one transaction at a time take rows out of it, so several replicas share the work. What is taken out goes
//! into `sync_history`. How far a log is trimmed stands in its head row, which is written as the last thing before the
//! commit and together with it: pushes never wait for a round trip. A process that is killed anywhere leaves a log that is
//! trimmed up to its last piece. A log that cannot be trimmed is left alone for longer and longer ([`postponed`]).

mod all;
mod bounds;
mod connection;
mod due;
mod error;
mod log;
mod piece;
mod postponed;
mod record;
mod record_name;
mod worker;
mod write;

pub use all::Progress;
pub(super) use connection::{connect_command, search_in};
pub use due::LogName;
pub(super) use due::logs_of;
pub use error::CompactionError;
pub(super) use record::read_change;
pub use worker::Compactor;

use crate::config::CompactionConfig;
use crate::failpoints::Failpoint;
use crate::protocol::trim::Flaw;
use std::time::Duration;

/// What is trimmed, and what is kept of it.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// Rows younger than this stay whole.
    after: Duration,
    /// Records deleted longer ago than this are purged; none: never.
    purge_after: Option<Duration>,
    keeps_history: bool,
    history_days: i32,
    /// How far the replica's clock has been moved ahead of the database's, by which rows are dated.
    ahead: Duration,
}

impl Rules {
    fn of(config: &CompactionConfig) -> Rules {
        Rules {
            after: config.compact_after_ms,
            purge_after: Some(config.purge_deleted_after_ms).filter(|after| !after.is_zero()),
            keeps_history: config.history_days > 0,
            history_days: config.history_days as i32,
            ahead: Duration::ZERO,
        }
    }
}

/// What one trimming did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Rows that were looked at.
    pub seen: u64,
    /// Rows that lost something, those that went included.
    pub rows: u64,
    /// Rows that went.
    pub gone: u64,
    /// Bytes of values, stamps and other members that were taken out.
    pub bytes: u64,
}

impl Trimmed {
    fn add(&mut self, other: Trimmed) {
        self.seen += other.seen;
        self.rows += other.rows;
        self.gone += other.gone;
        self.bytes += other.bytes;
    }
}

/// What is wrong with the verdicts of this process, for tests.
fn flaw() -> Option<Flaw> {
    let flaws = [
        (Failpoint::TrimDropsWinner, Flaw::DropsWinner),
        (Failpoint::TrimTakesFirstOfTies, Flaw::TakesFirstOfTies),
        (Failpoint::TrimDropsFirstRow, Flaw::DropsFirstRow),
    ];
    flaws.into_iter().find(|(defect, _)| defect.is_on()).map(|(_, flaw)| flaw)
}
