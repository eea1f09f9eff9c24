//! How often one user may do something, which operators may change while the replica runs.

use super::bucket::Refill;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many seconds' worth may come at once.
const BURST_SECONDS: f64 = 10.0;

/// So many in a second, on average; 0: as many as there are. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Rate(Arc<AtomicU32>);

impl Rate {
    /// As it is configured.
    pub(super) fn new(per_second: u32) -> Rate {
        Rate(Arc::new(AtomicU32::new(per_second)))
    }

    /// From now on so many; what users have left is kept, as far as it is not more than that allows at once.
    pub fn set(&self, per_second: u32) {
        self.0.store(per_second, Ordering::Relaxed);
    }

    /// How many, now.
    pub fn per_second(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// How a user's bucket fills; none where there is no limit.
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
    /// Pulls, and streams that are opened.
    pub pulls: Rate,
}
