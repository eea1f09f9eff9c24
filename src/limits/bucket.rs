//! A rate limit that allows bursts.

use std::time::Duration;
use tokio::time::Instant;

/// A token bucket, initially full.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    left: f64,
    at: Instant,
}

/// The rate at which a bucket fills, and its capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Refill {
    pub(super) per_second: f64,
    pub(super) capacity: f64,
}

impl Bucket {
    pub(super) fn full(refill: Refill, now: Instant) -> Bucket {
        Bucket { left: refill.capacity, at: now }
    }

    /// Takes tokens if there are enough, or if the bucket is full although it never holds that many.
    ///
    /// # Errors
    /// There are too few: returns the time until there are enough.
    pub(super) fn take(&mut self, tokens: f64, refill: Refill, now: Instant) -> Result<(), Duration> {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * refill.per_second;
        self.left = (self.left + gained).min(refill.capacity);
        self.at = self.at.max(now);
        let needed = tokens.min(refill.capacity);
        if self.left >= needed {
            self.left -= tokens;
            return Ok(());
        }
        let missing = needed - self.left;
        Err(Duration::try_from_secs_f64(missing / refill.per_second).unwrap_or(Duration::MAX))
    }

    /// Returns unused tokens.
    pub(super) fn give_back(&mut self, tokens: f64, refill: Refill) {
        self.left = (self.left + tokens).min(refill.capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFILL: Refill = Refill { per_second: 10.0, capacity: 20.0 };

    #[test]
    fn a_full_bucket_is_taken_at_once_and_then_as_it_fills() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(REFILL, begin);
        let mut taken_at = |after: u64| {
            let now = begin + Duration::from_millis(after);
            (0..1_000).take_while(|_| bucket.take(1.0, REFILL, now).is_ok()).count()
        };
        assert_eq!((taken_at(0), taken_at(0), taken_at(1_050), taken_at(60_000)), (20, 0, 10, 20));
        assert_eq!(taken_at(0), 0, "a clock that goes back gives nothing");
    }

    #[test]
    fn who_finds_too_little_is_told_when_there_is_enough() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(REFILL, begin);
        assert_eq!(bucket.take(15.0, REFILL, begin), Ok(()));
        let wait = bucket.take(15.0, REFILL, begin).unwrap_err();
        assert_eq!(wait.as_millis(), 1_000);
        assert_eq!(bucket.take(15.0, REFILL, begin + wait), Ok(()));
        bucket.give_back(15.0, REFILL);
        assert_eq!(bucket.take(15.0, REFILL, begin + wait), Ok(()), "what was given back");
    }

    #[test]
    fn what_is_larger_than_the_bucket_takes_a_full_one_and_is_paid_for_later() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(REFILL, begin);
        assert_eq!(bucket.take(50.0, REFILL, begin), Ok(()));
        let wait = bucket.take(1.0, REFILL, begin).unwrap_err();
        assert_eq!(wait.as_millis(), 3_100);
    }
}
