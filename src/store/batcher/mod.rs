//! Group commit: pushes share statements, and no user pays for another (G1, G6).
//!
//! A statement costs PostgreSQL far more than the rows of a small push do: a round trip, the executor's startup, a
//! commit. Therefore, the more batches are running, the more pushes must be waiting before another starts: on an idle
//! system a push is stored alone and at once, and under load batches grow on their own ([`queue`]), especially if the
//! database is busy ([`concurrency`]).
//!
//! ```text
//! push ─► FIFO of its log ─► ring of users with ready logs ─► batch ──► stored: answered
//!               ▲                                              │ └────► its head is locked, or some of it is stored
//!               └── back to the front, to go alone ◄───────────┴─────── already, or the batch was refused
//! ```
//! A batch never waits for a lock: it takes the heads that are free, and a push that it has to leave behind is then
//! stored alone, ahead of its log's other pushes. Large pushes are stored alone as well. Pushes stored alone use at
//! most half of the pool, and one user's at most two places of that. Pushes with locked heads have separate places, a
//! quarter of the pool, and wait here: they retry with growing pauses, holding neither a connection nor a place in
//! between, until they time out. While a log is in a statement, further pushes to it wait here too. Together, all of
//! them leave a quarter of the pool to reads.

mod concurrency;
mod job;
mod outcome;
mod queue;
mod round_robin;
mod running;
mod shared_queue;
mod waiting;

pub(super) use job::Job;

use super::StoreError;
use super::announcement::Told;
use super::batch::{Entry, Placed, is_about_notifying, is_locked};
use super::known::{KnownChanges, Pushed};
use super::unstorable;
use crate::clock::Clock;
use crate::db::DbError;
use crate::failpoints::Failpoint;
use futures_util::future::BoxFuture;
use job::Way;
use outcome::Outcome;
use prometheus::IntGauge;
use queue::FairQueue;
use running::{Due, RunningAlone, RunningBatch, due};
use shared_queue::SharedQueue;
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

/// A batch that takes longer is no longer counted as running.
const SLOW_BATCH: Duration = Duration::from_millis(500);

/// The pushes of this replica that are waiting or being stored.
#[derive(Clone, Debug)]
pub(super) struct Batcher {
    waiting: SharedQueue,
    known: KnownChanges,
    queue_timeout: Duration,
    clock: Clock,
}

impl Batcher {
    /// Creates a batcher for a pool of this many connections, with a gauge of the pushes that wait.
    pub(super) fn new(
        pool_size: usize,
        waiting: IntGauge,
        known: KnownChanges,
        queue_timeout: Duration,
        clock: Clock,
    ) -> Batcher {
        Batcher { waiting: SharedQueue::new(pool_size, waiting), known, queue_timeout, clock }
    }

    /// Queues a push to be stored in its turn, and returns its future outcome.
    pub(super) fn enqueue(&self, mut job: Job) -> Outcome {
        let (log, id, answered) = (job.entry.log.id, job.id, job.answered());
        if Failpoint::NoHeadRow.is_on() {
            let known = self.known.clone();
            tokio::spawn(async move {
                let pushed = known.store_what_is_new(&job.entry).await;
                job.finish(pushed.and_then(|pushed| pushed.ok_or(StoreError::TurnTimeout)));
            });
        } else {
            let (refused, due) = {
                let mut queue = self.waiting.lock();
                (queue.push(job), due(&mut queue))
            };
            self.start(due);
            if let Some(job) = refused {
                job.finish(Err(StoreError::TurnTimeout));
            }
        }
        Outcome::new(self.waiting.clone(), log, id, answered)
    }

    /// Starts statements. Not under the queue's lock: a runtime that is shutting down drops what it is to run at once,
    /// and that releases its logs.
    fn start(&self, due: Vec<Due>) {
        for statement in due {
            match statement {
                Due::Batch(batch, is_only) => drop(tokio::spawn(self.clone().run_batch(batch, is_only))),
                Due::Alone(job) => drop(tokio::spawn(self.clone().run_alone(job))),
            }
        }
    }

    /// Changes the queue, then starts what is due.
    fn change(&self, change: impl FnOnce(&mut FairQueue)) {
        let due = {
            let mut queue = self.waiting.lock();
            change(&mut queue);
            due(&mut queue)
        };
        self.start(due);
    }

    /// Runs a batch. `is_only`: it is a single push, and no other batch is running here.
    fn run_batch(self, batch: Vec<Job>, is_only: bool) -> BoxFuture<'static, ()> {
        let mut running = RunningBatch::new(self.clone(), &batch);
        Box::pin(async move {
            running.begin();
            let mut storing = pin!(self.store_together(batch, is_only));
            if tokio::time::timeout(SLOW_BATCH, &mut storing).await.is_err() {
                running.no_longer_counts();
                storing.await;
            }
        })
    }

    async fn store_together(&self, mut batch: Vec<Job>, is_only: bool) {
        let stored = match batch.first_mut().filter(|_| is_only && self.known.insert.can_notify()) {
            Some(job) => self.insert_notifying(job).await,
            None => None,
        };
        let stored = match stored {
            Some(stored) => stored,
            None => self.insert_timed(&batch.iter().map(|job| &job.entry).collect::<Vec<_>>()).await,
        };
        let mut left = Vec::new();
        match stored.map_err(StoreError::from) {
            Ok(stored) => {
                for (job, placed) in batch.into_iter().zip(stored) {
                    match placed {
                        Placed::Stored(stored) => {
                            let pushed = Pushed::new(&job.entry, stored);
                            job.finish(Ok(pushed));
                        }
                        Placed::Known | Placed::Dropped => left.push(job.looking_first()),
                        Placed::Locked if job.is_expired(self.queue_timeout) => {
                            job.finish(Err(StoreError::TurnTimeout));
                        }
                        Placed::Locked => left.push(job.going(Way::Locked)),
                    }
                }
            }
            Err(StoreError::Unavailable(error)) if !may_be_about_one(&error) => {
                batch.into_iter().for_each(|job| job.finish(Err(StoreError::Unavailable(error.clone()))));
            }
            Err(_) => left.extend(batch.into_iter().map(|job| job.going(Way::Alone))),
        }
        self.waiting.lock().put_back(left);
    }

    /// Stores a push in a transaction that also announces it; none if it is not to be announced that way, or the database
    /// refuses notifications at the moment.
    ///
    /// A transaction that notifies holds a server-wide lock across its commit's flush, so this is done only when hardly
    /// any other transaction notifies and would have to wait. It then saves a round trip to this replica, and a
    /// transaction.
    async fn insert_notifying(&self, job: &mut Job) -> Option<Result<Vec<Placed>, DbError>> {
        let notice = job.notice()?;
        let begun = Instant::now();
        let placed = self.known.insert.insert_notifying(&job.entry, &notice).await;
        job.told(match &placed {
            Some(Ok(Placed::Stored(_))) => Told::After(begun.elapsed()),
            Some(Err(error)) if is_about_notifying(error) => Told::Refused,
            _ => Told::Not,
        });
        placed.filter(|placed| !placed.as_ref().is_err_and(is_about_notifying)).map(|placed| Ok(vec![placed?]))
    }

    /// Like [`Self::insert_together`], and takes the time.
    async fn insert_timed(&self, entries: &[&Entry]) -> Result<Vec<Placed>, DbError> {
        let begun = Instant::now();
        let stored = self.insert_together(entries).await;
        // One that left something behind took less time.
        if stored.as_ref().is_ok_and(|placed| placed.iter().all(|placed| matches!(placed, Placed::Stored(_)))) {
            let (changes, now) = (entries.iter().map(|entry| entry.rows.len()).sum(), Instant::now());
            self.waiting.lock().batch_stored(entries.len(), changes, now - begun, now);
        }
        stored
    }

    async fn insert_together(&self, entries: &[&Entry]) -> Result<Vec<Placed>, DbError> {
        let begun = Instant::now();
        match self.known.insert.insert_free(entries).await {
            // Another session is creating one of the logs right now. The others continue, without the logs that do not
            // exist.
            Err(error) if is_locked(&error) && begun.elapsed() < SLOW_BATCH => {
                self.known.insert.insert_present(entries).await
            }
            stored => stored,
        }
    }

    /// Stores a push in a statement of its own. If its log's head is locked, it returns to the queue for a while.
    fn run_alone(self, job: Job) -> impl Future<Output = ()> + Send {
        let mut running = RunningAlone::new(self.clone(), &job);
        async move {
            running.begin();
            self.store_alone(job, running).await;
        }
    }

    async fn store_alone(self, mut job: Job, mut running: RunningAlone) {
        match self.known.store_what_is_new(&job.entry).await {
            Ok(None) if job.is_expired(self.queue_timeout) => job.finish(Err(StoreError::TurnTimeout)),
            Ok(None) => {
                let pause = self.clock.jitter(job.next_pause(), 0.5..1.0);
                running.put_back(job.going(Way::Locked));
                tokio::time::sleep(pause).await;
            }
            Ok(Some(pushed)) => job.finish(Ok(pushed)),
            Err(error) => {
                let error = unstorable::find(&self.known.insert.pool, &job.entry.push, error).await;
                job.finish(Err(error));
            }
        }
    }
}

/// Returns true if an error of a batch may be due to just one of its logs: a lock, a deadlock, a slow statement.
fn may_be_about_one(error: &DbError) -> bool {
    error.sqlstate().is_some_and(|code| matches!(code, "40001" | "40P01" | "55P03" | "57014"))
}

#[cfg(test)]
mod tests;
