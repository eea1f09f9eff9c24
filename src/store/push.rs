//! Storing a push (G1).

use super::batcher::Job;
use super::known::Pushed;
use super::{Store, StoreError, traced};
use crate::failpoints::Failpoint;
use crate::protocol::Log;
use crate::protocol::push::Push;
use std::sync::Arc;
use uuid::Uuid;

/// Where the rows that a push added stand in their log, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The position of the first.
    pub first: i64,
    /// The position of the last: the head when they were stored.
    pub last: i64,
    /// The head before; 0 where there was none.
    pub previous: i64,
}

impl Store {
    /// Stores the changes of a push, of which there must be some: all of them or none.
    ///
    /// A change that is stored already is found by the id of its row, and stays as it is. What is stored is announced
    /// at once, even if the caller has gone meanwhile.
    pub async fn push(
        &self,
        log: &Log,
        push: Arc<Push>,
        announce: impl FnOnce(&Pushed) + Send + 'static,
    ) -> Result<Pushed, StoreError> {
        let ids = if Failpoint::NoRetryDetection.is_on() {
            push.changes.iter().map(|_| Uuid::from_u128(self.clock.random_u128())).collect()
        } else {
            push.row_ids(&log.user_id, &log.app)
        };
        let outcome = self.enqueue(Job::new(log.clone(), push, ids, Box::new(announce)));
        traced::awaited(traced::PUSH, outcome.wait(self.queue_timeout)).await
    }
}
