//! What the last point of each measurement may be of the first.
//!
//! Each is a promise about the shape of a curve, not about this machine: what must stay the same may differ by what two
//! runs of the same differ by, and no more.

use crate::report::model::Limit;

/// Latency of pushes and pulls where a hundred times as much is stored: indexes are one level deeper at most, and of a
/// user's log they hold neighbouring entries. The goal of the whole: 5 million changes against 50,000.
pub const STORED_P50: Limit = Limit::AtMost(1.2);
/// The slowest of a hundred is a matter of what the disk and the other processes do.
pub const STORED_P99: Limit = Limit::AtMost(2.0);

/// Pushes in a second on eight replicas against one, on the same machine: the processors are shared, so nothing can be
/// gained, but what every replica does for every push of every other must not eat up more than a quarter.
pub const REPLICAS_RATE: Limit = Limit::AtLeast(0.75);
/// Processor time of all replicas for each push: the push itself once, hearing of it eight times.
pub const REPLICAS_CPU: Limit = Limit::AtMost(2.5);

/// Notifications in a second of two hundred replicas against those of one: the budget, divided by two hundred, of a
/// thousand.
pub const LISTENERS_RATE: Limit = Limit::AtMost(0.25);
/// What they cost PostgreSQL: a thousand wakes of listeners a second become forty thousand, and no more.
pub const LISTENERS_CPU: Limit = Limit::AtMost(40.0);
/// Cores of PostgreSQL that a hundred replicas cost at most by their notifications: what the budget is made for.
pub const LISTENERS_CORES: Limit = Limit::AtMost(1.0);
/// The number of replicas that this is said of.
pub const MANY_LISTENERS: usize = 100;

/// Memory for each WebSocket: the more there are, the less what a replica needs anyway counts, so it falls if anything.
pub const CONNECTIONS_MEMORY: Limit = Limit::AtMost(1.2);
/// From push to wake-up: one look-up by user, whoever else is connected. Reconciling ten thousand users takes its turns
/// on the same processors.
pub const CONNECTIONS_WAKEUP_P50: Limit = Limit::AtMost(1.5);
/// The two slowest of two hundred pushes: those that came while the users were reconciled, which takes longer the more of
/// them there are.
pub const CONNECTIONS_WAKEUP_P99: Limit = Limit::AtMost(5.0);

/// Latency by the number of apps, or of tables: names are columns of keys and nothing else.
pub const NAMES_P50: Limit = Limit::AtMost(1.2);
/// As for [`STORED_P99`].
pub const NAMES_P99: Limit = Limit::AtMost(2.0);

/// Latency by the length of the log that is written to and read from: its end is found by index.
pub const LOG_P50: Limit = Limit::AtMost(1.2);
/// As for [`STORED_P99`].
pub const LOG_P99: Limit = Limit::AtMost(2.0);
/// Rows in a second of a fresh device's first pages: each page is a range of an index, however long the rest is.
pub const LOG_RATE: Limit = Limit::AtLeast(0.8);

/// Rows and bytes that a fresh device reads, by edits of the same records: what lost is gone, so it is the same ten times
/// the edits later.
pub const EDITS_READ: Limit = Limit::AtMost(1.1);
/// How long that takes: as [`EDITS_READ`], and what a second on a busy machine differs by.
pub const EDITS_SECONDS: Limit = Limit::AtMost(1.3);

/// Rows that a fresh device reads of a trimmed log, for each that has to stay: the newest of each field, and the first of each
/// record.
pub const EDITS_ROWS: Limit = Limit::AtMost(1.1);
/// Time of a fresh device on a trimmed log for that on the log as it was, from [`MANY_EDITS`] edits on.
pub const EDITS_SHARE: Limit = Limit::AtMost(0.05);
/// A million.
pub const MANY_EDITS: u64 = 1_000_000;

/// Size of the log's table and indexes by days: it is level from the first day on that is longer than changes stay whole.
pub const DAYS_BYTES: Limit = Limit::AtMost(1.2);

/// Not faster than the size: idle connections are worked for one by one, so a hundred times as many may take a hundred
/// times as much.
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
