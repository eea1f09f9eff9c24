//! Per-user rates, which operators may change while the replica runs.

use super::bucket::Refill;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The burst size, in seconds' worth.
const BURST_SECONDS: f64 = 10.0;

/// A number per second, on average; 0: no limit. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Rate(Arc<AtomicU32>);

impl Rate {
    /// Creates the configured rate.
    pub(super) fn new(per_second: u32) -> Rate {
        Rate(Arc::new(AtomicU32::new(per_second)))
    }

    /// Changes the rate; users keep their remaining tokens, up to the new burst size.
    pub fn set(&self, per_second: u32) {
        self.0.store(per_second, Ordering::Relaxed);
    }

    /// Returns the current rate.
    pub fn per_second(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns the refill of a user's bucket; `None` if there is no limit.
    pub(super) fn refill(&self) -> Option<Refill> {
        let per_second = f64::from(self.per_second());
        (per_second > 0.0).then_some(Refill { per_second, capacity: per_second * BURST_SECONDS })
    }
}

/// The rates of one user.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// Pushes.
    pub pushes: Rate,
    /// Pulls and newly opened streams.
    pub pulls: Rate,
}
