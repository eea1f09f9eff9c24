//! The queue as shared by all its users.

use super::queue::FairQueue;
use prometheus::IntGauge;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The shared queue. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct SharedQueue(Arc<Mutex<FairQueue>>);

impl SharedQueue {
    /// Creates a queue for a pool of this many connections, with a gauge of what waits in it.
    pub(super) fn new(pool_size: usize, waiting: IntGauge) -> SharedQueue {
        SharedQueue(Arc::new(Mutex::new(FairQueue::new(pool_size, waiting))))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, FairQueue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
