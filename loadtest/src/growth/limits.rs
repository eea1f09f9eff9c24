//! Limits on the ratio of the last to the first point of each measurement.
//!
//! Each is a promise about the shape of a curve, not about this machine: what must stay the same may only differ by as
//! much as two runs of the same measurement.

use crate::report::model::Limit;

/// Latency of pushes and pulls with a hundred times as much stored: indexes are at most one level deeper, and a user's
/// log is adjacent entries in them. The overall goal: 5 million changes compared with 50,000.
pub const STORED_P50: Limit = Limit::AtMost(1.2);
/// The slowest of a hundred depends on the disk and on other processes.
pub const STORED_P99: Limit = Limit::AtMost(2.0);

/// Pushes per second on eight replicas compared with one, on the same machine: the processors are shared, so nothing can
/// be gained, but what every replica does for every push of every other must not take more than a quarter.
pub const REPLICAS_RATE: Limit = Limit::AtLeast(0.75);
/// Processor time of all replicas per push: the push itself once, receiving its wake-up eight times.
pub const REPLICAS_CPU: Limit = Limit::AtMost(2.5);

/// Notifications per second of two hundred replicas compared with one: the budget divided by two hundred, out of a
/// thousand.
pub const LISTENERS_RATE: Limit = Limit::AtMost(0.25);
/// Their cost for PostgreSQL: a thousand listener wakes a second become forty thousand, and no more.
pub const LISTENERS_CPU: Limit = Limit::AtMost(40.0);
/// Maximum number of PostgreSQL cores that the notifications of a hundred replicas use: the purpose of the budget.
pub const LISTENERS_CORES: Limit = Limit::AtMost(1.0);
/// The number of replicas that this applies to.
pub const MANY_LISTENERS: usize = 100;

/// Memory per WebSocket: the more there are, the less a replica's base cost matters, so it falls if anything.
pub const CONNECTIONS_MEMORY: Limit = Limit::AtMost(1.2);
/// From push to wake-up: one look-up by user, whoever else is connected. Reconciling ten thousand users uses the same
/// processors.
pub const CONNECTIONS_WAKEUP_P50: Limit = Limit::AtMost(1.5);
/// The two slowest of two hundred pushes: those during reconciliation, which takes longer the more users there are.
pub const CONNECTIONS_WAKEUP_P99: Limit = Limit::AtMost(5.0);

/// Latency by the number of apps or tables: names are only columns of keys.
pub const NAMES_P50: Limit = Limit::AtMost(1.2);
/// As for [`STORED_P99`].
pub const NAMES_P99: Limit = Limit::AtMost(2.0);

/// Latency by the length of the log written to and read from: its end is found by index.
pub const LOG_P50: Limit = Limit::AtMost(1.2);
/// As for [`STORED_P99`].
pub const LOG_P99: Limit = Limit::AtMost(2.0);
/// Rows per second of a fresh device's first pages: each page is a range of an index, however long the rest is.
pub const LOG_RATE: Limit = Limit::AtLeast(0.8);

/// Rows and bytes that a fresh device reads, by edits of the same records: losing writes are gone, so it is the same
/// with ten times the edits.
pub const EDITS_READ: Limit = Limit::AtMost(1.1);
/// The time that takes: like [`EDITS_READ`], with the variation of a second on a busy machine.
pub const EDITS_SECONDS: Limit = Limit::AtMost(1.3);

/// Rows of a trimmed log that a fresh device reads, per row that has to stay: the newest of each field, and the first
/// of each record.
pub const EDITS_ROWS: Limit = Limit::AtMost(1.1);
/// Time of a fresh device on a trimmed log relative to the untrimmed log, from [`MANY_EDITS`] edits on.
pub const EDITS_SHARE: Limit = Limit::AtMost(0.05);
/// A million.
pub const MANY_EDITS: u64 = 1_000_000;

/// Size of the log's table and indexes by days: constant from the first measured day on, which is later than changes
/// stay whole.
pub const DAYS_BYTES: Limit = Limit::AtMost(1.2);

/// Growth in proportion to the size: idle connections are handled one by one, so a hundred times as many may take a
/// hundred times as much.
pub fn as_the_size(sizes: &[f64]) -> Option<Limit> {
    Some(Limit::AtMost(sizes.last()? / sizes.first()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_grow_with_the_size_may_grow_as_far() {
        assert_eq!(as_the_size(&[100.0, 1_000.0, 10_000.0]), Some(Limit::AtMost(100.0)));
        assert_eq!(as_the_size(&[]), None);
    }
}
