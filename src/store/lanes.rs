//! Small pushes share statements: what arrives while one is stored is stored together next.
//!
//! A statement costs PostgreSQL far more than the rows of a small push do: its round trip, starting the executor, the
//! commit, the flush of the log. So the logs are spread over a few lanes, and each lane stores one batch after the
//! other. A push that finds its lane idle goes at once; under load the batches grow by themselves.
//!
//! Nobody pays for others: a batch that fails for what is in it is done again push by push; one that takes long is
//! not waited for; what is large does not ride at all ([`Job::is_small`]).

use super::batch::Entry;
use super::push::Job;
use super::{Store, StoreError};
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Batches that are stored at the same time, as long as none takes long.
const LANES: usize = 2;
/// Pushes in one batch, at most.
const MAX_PUSHES: usize = 64;
/// Changes in one batch, at most: about as many as take as long as a flush of the log.
const MAX_CHANGES: usize = 256;
/// Pushes that wait in one lane, at most.
const MAX_WAITING: usize = 10_000;
/// A batch that takes longer does not hold up those after it.
const OVERDUE: Duration = Duration::from_millis(500);

/// The lanes of a store.
#[derive(Clone, Debug)]
pub(super) struct Lanes(Arc<[Lane]>);

#[derive(Debug, Default)]
struct Lane(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Job>,
    /// Whether somebody sees to what waits.
    attended: bool,
}

impl Default for Lanes {
    fn default() -> Self {
        Lanes((0..LANES).map(|_| Lane::default()).collect())
    }
}

impl Lane {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// The next batch, in the order of arrival. If nothing waits, nobody sees to it any more.
    fn next(&mut self) -> Vec<Job> {
        let (mut batch, mut changes) = (Vec::new(), 0);
        while let Some(job) = self.waiting.front() {
            changes += job.entry.push.changes.len();
            if !batch.is_empty() && (batch.len() == MAX_PUSHES || changes > MAX_CHANGES) {
                break;
            }
            batch.extend(self.waiting.pop_front());
        }
        self.attended = !batch.is_empty();
        batch
    }
}

impl Store {
    /// Lets a push ride with others.
    pub(super) fn enqueue(&self, job: Job) {
        // Any bits of a digest are as good as others.
        let lane = job.entry.log.id.0.as_u128() as usize % self.lanes.0.len();
        let mut queue = self.lanes.0[lane].queue();
        if queue.waiting.len() == MAX_WAITING {
            drop(queue);
            return job.finish(Err(StoreError::TurnTimeout));
        }
        queue.waiting.push_back(job);
        if !std::mem::replace(&mut queue.attended, true) {
            tokio::spawn(self.clone().attend(lane));
        }
    }

    /// Stores what waits in a lane until nothing does.
    fn attend(self, lane: usize) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                let batch = self.lanes.0[lane].queue().next();
                if batch.is_empty() {
                    return;
                }
                let mut storing = pin!(self.store_together(batch));
                if tokio::time::timeout(OVERDUE, &mut storing).await.is_err() {
                    // Somebody else sees to the lane.
                    tokio::spawn(self.clone().attend(lane));
                    return storing.await;
                }
            }
        })
    }

    async fn store_together(&self, mut batch: Vec<Job>) {
        batch.retain(Job::begin);
        let entries: Vec<&Entry> = batch.iter().map(|job| &job.entry).collect();
        if entries.is_empty() {
            return;
        }
        match self.despite_loss(|| async { Ok(self.insert(&entries).await?) }).await {
            Ok(stored) => batch.into_iter().zip(stored).for_each(|(job, stored)| match stored {
                Some(stored) => job.finish(Ok(stored)),
                None => self.store_alone(job),
            }),
            Err(StoreError::Unavailable(error)) if !may_be_about_one(&error) => {
                batch.into_iter().for_each(|job| job.finish(Err(StoreError::Unavailable(error.clone()))));
            }
            Err(_) => batch.into_iter().for_each(|job| self.store_alone(job)),
        }
    }
}

/// Whether what makes a batch unavailable may be one of its logs: a lock, a deadlock, a statement that took too long.
fn may_be_about_one(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| matches!(&*code, "40001" | "40P01" | "55P03" | "57014"))
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
