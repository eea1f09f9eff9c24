//! Compaction in place: a log costs only what is alive in it. See [`crate::protocol::trim`] for the rule.
//!
//! A log is due once some of its rows have been older than the horizon for a while ([`due`]). It is trimmed in pieces,
//! bounded in rows and bytes; each is a transaction that takes the records of the next few hundred rows, and examines
//! all rows of these records ([`piece`]). An advisory lock of the log admits one transaction at a time to remove rows,
//! which lets several replicas share the work. Whatever is removed goes into `sync_history`. The head row stores how
//! far a log is trimmed; it is written last, together with the commit, so pushes never wait for a round trip. A process
//! killed at any point leaves a log that is trimmed up to its last piece. A log that cannot be trimmed is left alone
//! for longer and longer ([`postponed`]).

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

/// What to trim, and what to keep of it.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// Rows younger than this stay whole.
    after: Duration,
    /// Records deleted longer ago than this are purged; `None`: never.
    purge_after: Option<Duration>,
    keeps_history: bool,
    history_days: i32,
    /// How far the replica's clock has been moved ahead of the database's clock, which dates the rows.
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

/// The result of one trimming.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Rows examined.
    pub seen: u64,
    /// Rows that lost something, including removed ones.
    pub rows: u64,
    /// Rows removed.
    pub gone: u64,
    /// Bytes of values, stamps and other members removed.
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

/// Returns the active failpoint of the trimming rule, for tests.
fn flaw() -> Option<Flaw> {
    let flaws = [
        (Failpoint::TrimDropsWinner, Flaw::DropsWinner),
        (Failpoint::TrimTakesFirstOfTies, Flaw::TakesFirstOfTies),
        (Failpoint::TrimDropsFirstRow, Flaw::DropsFirstRow),
    ];
    flaws.into_iter().find(|(defect, _)| defect.is_on()).map(|(_, flaw)| flaw)
}
