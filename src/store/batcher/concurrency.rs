//! The number of batches that run at once: fewer while the database is busy.
//!
//! While processors are free, pushes are stored sooner if batches run side by side. Once there are none left, each batch
//! takes longer by as much, and all that side by side achieves is smaller batches, each at the full cost of a statement
//! (`docs/adr/0042-fewer-batches-at-once-while-busy.md`). Whether the database is busy shows in how long batches take,
//! compared with the shortest time of those of their size.

use crate::db::ShortestLately;
use std::time::Duration;
use tokio::time::Instant;

/// A batch that takes more than this multiple of the shortest time says that the database is busy, one that takes less
/// than this other one that it is not.
const BUSY: f64 = 2.0;
const FREE: f64 = 1.5;
/// What the former multiplies the limit by, and the latter adds to it: a limit that is too high costs more.
const DECREASE: f64 = 0.8;
const INCREASE: f64 = 0.05;
/// Changes for which the cost of a statement hardly matters: a batch of so many starts anyway.
const LARGE: f64 = 32.0;
/// Weight of the last batch in the average number of changes in a push, as a divisor.
const WEIGHT: f64 = 8.0;
/// Sizes of batches that are compared with each other, in powers of two: one change, two or three, …, 256 or more.
const SIZES: usize = 9;

/// Limits how many batches run at once.
#[derive(Debug)]
pub(super) struct ConcurrencyLimit {
    limit: f64,
    most: f64,
    /// The shortest time of each size.
    shortest: [ShortestLately; SIZES],
    /// Average number of changes in a push.
    changes: f64,
}

impl ConcurrencyLimit {
    /// Creates a limit of this many batches, which it never exceeds.
    pub(super) fn new(most: usize) -> ConcurrencyLimit {
        let most = most as f64;
        ConcurrencyLimit { limit: most, most, shortest: Default::default(), changes: 1.0 }
    }

    /// Returns true if another batch may start beside this many, for so many waiting pushes. The first always may.
    pub(super) fn allows(&self, running: usize, waiting: usize) -> bool {
        running < self.limit as usize || waiting as f64 * self.changes >= LARGE
    }

    /// Records how long a batch took that was stored, from when it asked for a connection, and how many are running, this
    /// one included. One that ran alone and took long says nothing about running several.
    pub(super) fn note(&mut self, running: usize, pushes: usize, changes: usize, took: Duration, now: Instant) {
        self.changes += (changes as f64 / pushes.max(1) as f64 - self.changes) / WEIGHT;
        let size = (changes.max(1).ilog2() as usize).min(SIZES - 1);
        let shortest = self.shortest[size].note(took, now);
        if took > shortest.mul_f64(BUSY) && running > 1 {
            self.limit = (self.limit * DECREASE).max(1.0);
        } else if took < shortest.mul_f64(FREE) {
            self.limit = (self.limit + INCREASE).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// The highest number of batches that may run while one push is waiting.
    fn limit(concurrency: &ConcurrencyLimit) -> usize {
        (0..).find(|running| !concurrency.allows(*running, 1)).unwrap()
    }

    #[test]
    fn while_batches_take_long_they_run_one_at_a_time_and_side_by_side_again_afterwards() {
        let (mut concurrency, now) = (ConcurrencyLimit::new(6), Instant::now());
        assert_eq!(limit(&concurrency), 6);
        concurrency.note(2, 1, 1, MILLI, now);
        concurrency.note(2, 1, 1, 10 * MILLI, now);
        assert!(limit(&concurrency) >= 4, "a single slow one matters little");
        (0..20).for_each(|_| concurrency.note(2, 1, 1, 10 * MILLI, now));
        assert_eq!(limit(&concurrency), 1);
        (0..1_000).for_each(|_| concurrency.note(2, 1, 1, MILLI.mul_f64(1.7), now));
        assert_eq!(limit(&concurrency), 1, "neither busy nor free");
        (0..200).for_each(|_| concurrency.note(2, 1, 1, MILLI, now));
        assert_eq!(limit(&concurrency), 6);
    }

    #[test]
    fn a_batch_that_runs_alone_and_takes_long_says_nothing() {
        let (mut concurrency, now) = (ConcurrencyLimit::new(6), Instant::now());
        concurrency.note(1, 1, 1, MILLI, now);
        (0..20).for_each(|_| concurrency.note(1, 1, 1, 10 * MILLI, now));
        assert_eq!(limit(&concurrency), 6);
    }

    #[test]
    fn a_large_batch_takes_longer_and_that_says_nothing() {
        let (mut concurrency, now) = (ConcurrencyLimit::new(6), Instant::now());
        for _ in 0..100 {
            concurrency.note(2, 1, 1, MILLI, now);
            concurrency.note(2, 20, 200, 8 * MILLI, now);
        }
        assert_eq!(limit(&concurrency), 6);
    }

    #[test]
    fn what_makes_a_large_batch_never_waits_for_another() {
        let (mut concurrency, now) = (ConcurrencyLimit::new(6), Instant::now());
        concurrency.note(2, 1, 1, MILLI, now);
        (0..20).for_each(|_| concurrency.note(2, 1, 1, 10 * MILLI, now));
        assert!(!concurrency.allows(1, 31) && concurrency.allows(1, 32), "of one change each");
        concurrency.note(2, 2, 20, MILLI, now);
        (0..100).for_each(|_| concurrency.note(2, 2, 20, 10 * MILLI, now));
        assert!(!concurrency.allows(1, 3) && concurrency.allows(1, 4), "of about ten");
    }
}
