//! One push to a log at a time (G6).
//!
//! Pushes to one log wait for each other in the database anyway, on the lock of the head row. Waiting there each
//! would hold a connection, and one busy user could take the whole pool. So they wait here, and not for long.

use crate::protocol::LogId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Whose turn it is, by log. Logs to which nobody pushes are not kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<LogId, Arc<Semaphore>>>>);

/// A place in the queue of a log, and when its time has come, the turn.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    log: LogId,
    queue: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// Waits for a turn; none if it does not come in time. It ends when it is dropped.
    pub(super) async fn take(&self, log: LogId, patience: Duration) -> Option<Turn> {
        let queue = self.queues().entry(log).or_insert_with(|| Arc::new(Semaphore::new(1))).clone();
        let mut turn = Turn { turns: self.clone(), log, queue, permit: None };
        let permit = tokio::time::timeout(patience, turn.queue.clone().acquire_owned()).await;
        turn.permit = Some(permit.ok()?.ok()?);
        Some(turn)
    }

    /// Whether it is somebody's turn.
    pub(super) fn is_taken(&self, log: LogId) -> bool {
        self.queues().contains_key(&log)
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<LogId, Arc<Semaphore>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permit = None;
        let mut queues = self.turns.queues();
        // The map's and ours: nobody else waits.
        if Arc::strong_count(&self.queue) == 2 {
            queues.remove(&self.log);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::UserKey;

    #[tokio::test]
    async fn one_at_a_time_has_its_turn_and_nothing_is_kept_afterwards() {
        let (turns, log) = (Turns::default(), LogId::of(UserKey::of("u"), "a"));
        let patience = Duration::from_millis(20);
        let first = turns.take(log, patience).await.unwrap();
        assert!(turns.take(log, patience).await.is_none(), "it is somebody's turn");
        assert!(turns.take(LogId::of(UserKey::of("v"), "a"), patience).await.is_some(), "others are not concerned");
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(log, Duration::from_secs(10)).await.is_some() }
        });
        drop(first);
        assert!(waiting.await.unwrap());
        assert!(turns.queues().is_empty());
    }
}
