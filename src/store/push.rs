//! A push on its way into the log: which statement stores it, and who is told (G1).

use super::batch::Entry;
use super::known::Pushed;
use super::{Store, StoreError, traced};
use crate::defects::Defect;
use crate::protocol::Log;
use crate::protocol::push::Push;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use uuid::Uuid;

/// Changes and bytes with which a push still shares a statement with others.
const MAX_SHARED_CHANGES: usize = 64;
const MAX_SHARED_BYTES: usize = 64 << 10;

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

/// What is told once a push is stored.
type Announce = Box<dyn FnOnce(&Pushed) + Send>;

/// A push on its way into the log.
pub(super) struct Job {
    pub(super) entry: Entry,
    announce: Announce,
    answer: oneshot::Sender<Result<Pushed, StoreError>>,
    /// Whether it is being stored.
    begun: Arc<AtomicBool>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// How a push ended, for whoever waits for it.
pub(super) struct Outcome {
    answered: oneshot::Receiver<Result<Pushed, StoreError>>,
    begun: Arc<AtomicBool>,
}

impl Outcome {
    /// Waits for the end of the push, but not longer than this for its beginning.
    async fn wait(mut self, patience: Duration) -> Result<Pushed, StoreError> {
        let outcome = match tokio::time::timeout(patience, &mut self.answered).await {
            Ok(outcome) => outcome,
            Err(_) if self.begun.load(Ordering::Relaxed) => self.answered.await,
            Err(_) => return Err(StoreError::TurnTimeout),
        };
        outcome.unwrap_or(Err(StoreError::Abandoned))
    }
}

impl Job {
    /// A push with the ids of its rows, and where its outcome will be.
    pub(super) fn new(log: Log, push: Arc<Push>, ids: Vec<Uuid>, announce: Announce) -> (Job, Outcome) {
        let (answer, answered) = oneshot::channel();
        let begun = Arc::<AtomicBool>::default();
        let outcome = Outcome { answered, begun: begun.clone() };
        (Job { entry: Entry::new(log, push, ids), announce, answer, begun }, outcome)
    }

    /// Whether it may share a statement with others: it takes hardly longer than the commit.
    fn is_small(&self) -> bool {
        let changes = &self.entry.push.changes;
        changes.len() <= MAX_SHARED_CHANGES
            && changes.iter().map(|change| change.size).sum::<usize>() <= MAX_SHARED_BYTES
    }

    /// The same, of which something was found to be stored.
    pub(super) fn looking_first(mut self) -> Job {
        self.entry.looks_first = true;
        self
    }

    /// Notes that it is being stored from now on; false if nobody waits for it any more.
    pub(super) fn begin(&self) -> bool {
        self.begun.store(true, Ordering::Relaxed);
        !self.answer.is_closed()
    }

    /// Announces what is stored, and answers whoever waits.
    pub(super) fn finish(self, pushed: Result<Pushed, StoreError>) {
        if let Ok(pushed) = &pushed {
            (self.announce)(pushed);
        }
        // Whoever has gone meanwhile will send it again, and it will be recognized.
        let _ = self.answer.send(pushed);
    }
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
        let ids = if Defect::NoRetryDetection.is_on() {
            push.changes.iter().map(|_| Uuid::from_u128(rand::random())).collect()
        } else {
            push.row_ids(&log.user_id, &log.app)
        };
        let (job, outcome) = Job::new(log.clone(), push, ids, Box::new(announce));
        let rides = job.is_small() && !job.entry.looks_first && !self.turns.is_taken(log.id);
        if rides && !Defect::NoHeadRow.is_on() {
            self.enqueue(job);
        } else {
            self.store_alone(job);
        }
        traced::awaited(traced::PUSH, outcome.wait(self.patience)).await
    }

    /// Stores a push in a statement of its own.
    pub(super) fn store_alone(&self, job: Job) {
        let store = self.clone();
        tokio::spawn(async move {
            // Turns order the pushes of one replica, as the head row's lock orders those of all.
            let turn = match Defect::NoHeadRow.is_on() {
                true => None,
                false => Some(store.turns.take(job.entry.log.id, store.patience).await),
            };
            let pushed = match turn {
                Some(None) => Err(StoreError::TurnTimeout),
                _ if !job.begin() => return,
                _ => store.store_what_is_new(&job.entry).await,
            };
            job.finish(pushed);
        });
    }
}
