//! The outcome of a push, for its caller.

use super::job::Answer;
use super::shared_queue::SharedQueue;
use crate::protocol::LogId;
use crate::store::StoreError;
use std::time::Duration;
use tokio::sync::oneshot;

/// The outcome of a push, for its caller. On drop, a push that has not started is abandoned.
pub(in crate::store) struct Outcome {
    waiting: SharedQueue,
    log: LogId,
    id: u64,
    answered: oneshot::Receiver<Answer>,
}

impl Outcome {
    pub(super) fn new(waiting: SharedQueue, log: LogId, id: u64, answered: oneshot::Receiver<Answer>) -> Outcome {
        Outcome { waiting, log, id, answered }
    }

    /// Waits for the end of the push, but no longer than this for its start.
    ///
    /// # Errors
    /// The push did not start in time, and is not stored; or it could not be stored.
    pub(in crate::store) async fn wait(mut self, limit: Duration) -> Answer {
        let outcome = match tokio::time::timeout(limit, &mut self.answered).await {
            Ok(outcome) => outcome,
            Err(_) if self.give_up() => return Err(StoreError::TurnTimeout),
            Err(_) => (&mut self.answered).await,
        };
        outcome.unwrap_or(Err(StoreError::Abandoned))
    }

    /// Removes the push from the queue; false if it is no longer there. It is dropped outside the lock.
    fn give_up(&self) -> bool {
        let job = self.waiting.lock().remove(self.log, self.id);
        job.is_some()
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.give_up();
    }
}
