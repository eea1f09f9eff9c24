//! A rate limit that allows bursts.

use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// The burst size, in seconds' worth.
const BURST_SECONDS: f64 = 5.0;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Allowance {
    per_second: f64,
    left: Mutex<Left>,
}

#[derive(Debug)]
struct Left {
    count: f64,
    at: Instant,
}

impl Allowance {
    /// Creates a full bucket. A `per_second` of 0 allows nothing.
    pub(super) fn new(per_second: u32, now: Instant) -> Allowance {
        let per_second = f64::from(per_second);
        Allowance { per_second, left: Mutex::new(Left { count: per_second * BURST_SECONDS, at: now }) }
    }

    /// Takes one token, if there is one.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now.saturating_duration_since(left.at).as_secs_f64() * self.per_second;
        left.count = (left.count + gained).min(self.per_second * BURST_SECONDS);
        left.at = left.at.max(now);
        let allowed = left.count >= 1.0;
        if allowed {
            left.count -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_rate_holds_in_the_long_run_and_a_burst_is_bounded() {
        let begin = Instant::now();
        let allowance = Allowance::new(10, begin);
        let taken_at = |after: Duration| (0..1000).filter(|_| allowance.take(begin + after)).count();
        assert_eq!(taken_at(Duration::ZERO), 50);
        assert_eq!(taken_at(Duration::from_millis(1050)), 10);
        assert_eq!(taken_at(Duration::from_secs(3600)), 50);
        let none = Allowance::new(0, begin);
        assert!(!none.take(begin + Duration::from_secs(3600)));
    }
}
