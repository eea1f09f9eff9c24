//! Pushes share statements (group commit), and nobody pays for anybody else (G1, G6).
//!
//! A statement costs PostgreSQL far more than the rows of a small push do: its round trip, starting the executor, the
//! commit. So the more batches run already, the more pushes have to wait before another one starts: at rest a push goes
//! at once and alone, and under load batches grow by themselves ([`queue`]).
//!
//! ```text
//! push ─► FIFO of its log ─► ring of users with ready logs ─► batch ──► stored: answered
//!               ▲                                              │ └────► its head is locked, or something of it is
//!               └── in front again, to go alone ◄──────────────┴─────── stored already, or the batch was refused
//! ```
//! A batch never waits for a lock: it takes the heads that are free, and what it has to leave goes alone, behind nobody.
//! What is large goes alone as well. Those that go alone have at most half of the pool, and one user's two places of it.
//! Those whose heads are locked have places apart from these, a quarter of the pool, and wait here: they ask for their head
//! again and again, with growing pauses in which they hold no connection and no place, until their time is over.
//! While a log is in a statement, further pushes to it wait here, too. All of them leave a quarter of the pool to reads.

mod job;
mod outcome;
mod queue;
mod round_robin;
mod shared_queue;

pub(super) use job::Job;

use super::StoreError;
use super::announcement::Told;
use super::batch::{Entry, Placed, is_about_notifying, is_locked};
use super::known::{KnownChanges, Pushed};
use crate::clock::Clock;
use crate::db::DbError;
use crate::failpoints::Failpoint;
use crate::protocol::{LogId, UserKey};
use futures_util::future::BoxFuture;
use job::Way;
use outcome::Outcome;
use queue::FairQueue;
use shared_queue::SharedQueue;
use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

/// A batch that takes longer is not counted among those that run.
const SLOW_BATCH: Duration = Duration::from_millis(500);

/// The pushes of this replica that wait, and those that are being stored.
#[derive(Clone, Debug)]
pub(super) struct Batcher {
    waiting: SharedQueue,
    known: KnownChanges,
    queue_timeout: Duration,
    clock: Clock,
}

impl Batcher {
    /// A batcher over a pool of so many connections.
    pub(super) fn new(pool_size: usize, known: KnownChanges, queue_timeout: Duration, clock: Clock) -> Batcher {
        Batcher { waiting: SharedQueue::new(pool_size), known, queue_timeout, clock }
    }

    /// Stores a push when its turn has come; where its outcome will be.
    pub(super) fn enqueue(&self, mut job: Job) -> Outcome {
        let (log, id, answered) = (job.entry.log.id, job.id, job.answered());
        if Failpoint::NoHeadRow.is_on() {
            let known = self.known.clone();
            tokio::spawn(async move {
                let pushed = known.store_what_is_new(&job.entry).await;
                job.finish(pushed.and_then(|pushed| pushed.ok_or(StoreError::TurnTimeout)));
            });
        } else {
            let mut queue = self.waiting.lock();
            match queue.push(job) {
                None => self.start(&mut queue),
                Some(job) => {
                    drop(queue);
                    job.finish(Err(StoreError::TurnTimeout));
                }
            }
        }
        Outcome::new(self.waiting.clone(), log, id, answered)
    }

    /// Starts what there is reason to start.
    fn start(&self, queue: &mut FairQueue) {
        while let Some(batch) = queue.next_batch() {
            let is_only = batch.len() == 1 && queue.batches() == 1;
            tokio::spawn(self.clone().run_batch(batch, is_only));
        }
        while let Some(job) = queue.next_alone() {
            tokio::spawn(self.clone().run_alone(job));
        }
    }

    /// `is_only`: a single push, while nothing else is stored in batches here.
    fn run_batch(self, batch: Vec<Job>, is_only: bool) -> BoxFuture<'static, ()> {
        let logs = batch.iter().map(|job| job.entry.log.id).collect();
        let mut running = RunningBatch { batcher: self.clone(), logs, counts: true };
        Box::pin(async move {
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
            None => self.insert_together(&batch.iter().map(|job| &job.entry).collect::<Vec<_>>()).await,
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
                        Placed::Known => left.push(job.looking_first()),
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

    /// Stores a push in a transaction that tells of it, if it is to; none if it is not, or the database takes no notification
    /// at the moment.
    ///
    /// A transaction that notifies holds a lock of the whole server across the flush of its commit: only where there is
    /// hardly another one does nobody wait for it. There it saves a way to this replica and back, and a transaction.
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

    async fn insert_together(&self, entries: &[&Entry]) -> Result<Vec<Placed>, DbError> {
        let begun = Instant::now();
        match self.known.insert.insert_free(entries).await {
            // Somebody is making one of the logs at this moment. The others go on without those that are not there.
            Err(error) if is_locked(&error) && begun.elapsed() < SLOW_BATCH => {
                self.known.insert.insert_present(entries).await
            }
            stored => stored,
        }
    }

    /// Stores a push in a statement of its own. If somebody holds its log's head, it goes back into the queue for a while.
    async fn run_alone(self, mut job: Job) {
        let (log, user, way) = (job.entry.log.id, job.entry.log.user, job.way());
        let mut running = RunningAlone { batcher: self.clone(), log, user, place: Some(way) };
        match self.known.store_what_is_new(&job.entry).await {
            Ok(None) if job.is_expired(self.queue_timeout) => job.finish(Err(StoreError::TurnTimeout)),
            Ok(None) => {
                let pause = self.clock.jitter(job.next_pause(), 0.5..1.0);
                running.put_back(job.going(Way::Locked));
                tokio::time::sleep(pause).await;
            }
            Ok(Some(pushed)) => job.finish(Ok(pushed)),
            Err(error) => job.finish(Err(error)),
        }
    }
}

/// A batch that runs. When it is dropped, its logs are free again and others may start, whatever became of it.
struct RunningBatch {
    batcher: Batcher,
    logs: HashSet<LogId>,
    counts: bool,
}

impl RunningBatch {
    fn no_longer_counts(&mut self) {
        if std::mem::replace(&mut self.counts, false) {
            let mut queue = self.batcher.waiting.lock();
            queue.batch_ended();
            self.batcher.start(&mut queue);
        }
    }
}

impl Drop for RunningBatch {
    fn drop(&mut self) {
        let mut queue = self.batcher.waiting.lock();
        queue.batch_statement_ended();
        if self.counts {
            queue.batch_ended();
        }
        self.logs.iter().for_each(|log| queue.release(*log));
        self.batcher.start(&mut queue);
    }
}

/// A push that is being stored alone; likewise.
struct RunningAlone {
    batcher: Batcher,
    log: LogId,
    user: UserKey,
    /// Where it has a place.
    place: Option<Way>,
}

impl RunningAlone {
    /// Lets the push wait in front of its log, and others have its place.
    fn put_back(&mut self, job: Job) {
        let mut queue = self.batcher.waiting.lock();
        queue.put_back(vec![job]);
        if let Some(way) = self.place.take() {
            queue.alone_ended(way, self.user);
        }
        self.batcher.start(&mut queue);
    }
}

impl Drop for RunningAlone {
    fn drop(&mut self) {
        let mut queue = self.batcher.waiting.lock();
        if let Some(way) = self.place.take() {
            queue.alone_ended(way, self.user);
        }
        queue.release(self.log);
        self.batcher.start(&mut queue);
    }
}

/// Whether what makes a batch unavailable may be one of its logs: a lock, a deadlock, a statement that took too long.
fn may_be_about_one(error: &DbError) -> bool {
    error.sqlstate().is_some_and(|code| matches!(code, "40001" | "40P01" | "55P03" | "57014"))
}
