//! Storing a push (G1).

use super::announcement::Announcement;
use super::batcher::{Batcher, Job};
use super::known::Pushed;
use super::{StoreError, traced};
use crate::clock::Clock;
use crate::failpoints::Failpoint;
use crate::protocol::Log;
use crate::protocol::push::Push;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Stores pushes.
#[derive(Clone, Debug)]
pub struct Pushes {
    batcher: Batcher,
    /// How long a push may wait for its turn.
    queue_timeout: Duration,
    clock: Clock,
}

impl Pushes {
    pub(super) fn new(batcher: Batcher, queue_timeout: Duration, clock: Clock) -> Pushes {
        Pushes { batcher, queue_timeout, clock }
    }

    /// Stores the changes of a nonempty push: all of them or none.
    ///
    /// A change that is stored already is recognized by its row id, and left unchanged. Stored changes are announced at
    /// once or with their commit, even if the caller is gone by then.
    pub async fn push(
        &self,
        log: &Log,
        push: Arc<Push>,
        announcement: impl Announcement + 'static,
    ) -> Result<Pushed, StoreError> {
        let ids = if Failpoint::NoRetryDetection.is_on() {
            push.changes.iter().map(|_| Uuid::from_u128(self.clock.random_u128())).collect()
        } else {
            push.row_ids(&log.user_id, &log.app)
        };
        let outcome = self.batcher.enqueue(Job::new(log.clone(), push, ids, Box::new(announcement)));
        traced::awaited(traced::PUSH, outcome.wait(self.queue_timeout)).await
    }
}
