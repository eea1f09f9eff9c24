//! Small pushes share statements: what arrives while others are stored is stored together next.
//!
//! A statement costs PostgreSQL far more than the rows of a small push do: its round trip, starting the executor, the
//! commit. So the more batches run already, the more pushes have to wait before another one starts ([`ENOUGH`]): at
//! rest a push goes at once and alone, and under load batches grow by themselves. Those that run at the same time share
//! the flushes of the log, as PostgreSQL's commits do.
//!
//! Nobody pays for others. A batch that fails for what is in it is done again push by push; one that takes long does not
//! keep others from starting; what is large does not ride at all. While a log is in a batch, further pushes to it wait
//! here rather than for its lock, where they would hold up the rest of their batch.

use super::batch::Entry;
use super::known::Pushed;
use super::push::Job;
use super::{Store, StoreError};
use crate::db::DbError;
use crate::protocol::LogId;
use futures_util::future::BoxFuture;
use std::collections::{HashSet, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many pushes must wait for another batch to start, by how many run. With so many running none is started.
const ENOUGH: [usize; 6] = [1, 1, 2, 4, 8, 16];
/// Pushes in one batch, at most.
const MAX_PUSHES: usize = 64;
/// Changes in one batch, at most: about as many as take as long as a flush of the log.
const MAX_CHANGES: usize = 256;
/// Pushes that wait, at most.
const MAX_WAITING: usize = 20_000;
/// How far into the queue pushes are looked for whose log is free.
const MAX_LOOKED_AT: usize = 1_000;
/// A batch that takes longer is not counted among those that run.
const OVERDUE: Duration = Duration::from_millis(500);

/// The small pushes that wait for a statement.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Batches that run, but for the overdue.
    running: usize,
    /// The logs in all batches that have not ended.
    busy: HashSet<LogId>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next batch, in the order of arrival, if there is reason to start one.
    fn next(&mut self) -> Option<Vec<Job>> {
        let enough = *ENOUGH.get(self.running)?;
        let free = |job: &&Job| !self.busy.contains(&job.entry.log.id);
        if self.waiting.len() < enough || self.waiting.iter().take(MAX_LOOKED_AT).filter(free).count() < enough {
            return None;
        }
        let batch = self.take();
        self.busy.extend(batch.iter().map(|job| job.entry.log.id));
        self.running += 1;
        Some(batch)
    }

    fn take(&mut self) -> Vec<Job> {
        let (mut batch, mut changes, mut ids) = (Vec::new(), 0, HashSet::new());
        let looked_at = self.waiting.len().min(MAX_LOOKED_AT);
        let mut passed_over = Vec::new();
        for job in self.waiting.drain(..looked_at) {
            let size = job.entry.push.changes.len();
            let fits = batch.is_empty() || (batch.len() < MAX_PUSHES && changes + size <= MAX_CHANGES);
            // What is sent again while its first attempt waits would be refused, and the whole batch with it.
            let is_new = |job: &Job| job.entry.rows.iter().all(|row| !ids.contains(&row.id));
            if fits && !self.busy.contains(&job.entry.log.id) && is_new(&job) {
                changes += size;
                ids.extend(job.entry.rows.iter().map(|row| row.id));
                batch.push(job);
            } else {
                passed_over.push(job);
            }
        }
        passed_over.into_iter().rev().for_each(|job| self.waiting.push_front(job));
        batch
    }
}

/// A batch that runs. When it is dropped, its logs are free again and others may start, whatever became of it.
struct Running {
    store: Store,
    logs: HashSet<LogId>,
    counts: bool,
}

impl Running {
    fn no_longer_counts(&mut self) {
        if std::mem::replace(&mut self.counts, false) {
            let mut state = self.store.queue.state();
            state.running -= 1;
            self.store.start_batches(&mut state);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.store.queue.state().busy.retain(|log| !self.logs.contains(log));
        self.no_longer_counts();
        // Those of its logs that were passed over.
        self.store.start_batches(&mut self.store.queue.state());
    }
}

impl Store {
    /// Lets a push ride with others.
    pub(super) fn enqueue(&self, job: Job) {
        let mut state = self.queue.state();
        if state.waiting.len() == MAX_WAITING {
            drop(state);
            return job.finish(Err(StoreError::TurnTimeout));
        }
        state.waiting.push_back(job);
        self.start_batches(&mut state);
    }

    fn start_batches(&self, state: &mut State) {
        while let Some(batch) = state.next() {
            tokio::spawn(self.clone().run_batch(batch));
        }
    }

    fn run_batch(self, batch: Vec<Job>) -> BoxFuture<'static, ()> {
        let logs = batch.iter().map(|job| job.entry.log.id).collect();
        let mut running = Running { store: self.clone(), logs, counts: true };
        Box::pin(async move {
            let mut storing = pin!(self.store_together(batch));
            if tokio::time::timeout(OVERDUE, &mut storing).await.is_err() {
                running.no_longer_counts();
                storing.await;
            }
        })
    }

    async fn store_together(&self, mut batch: Vec<Job>) {
        batch.retain(Job::begin);
        let entries: Vec<&Entry> = batch.iter().map(|job| &job.entry).collect();
        if entries.is_empty() {
            return;
        }
        match self.insert(&entries).await.map_err(StoreError::from) {
            Ok(stored) => batch.into_iter().zip(stored).for_each(|(job, stored)| match stored {
                Some(stored) => {
                    let pushed = Pushed::new(&job.entry, stored);
                    job.finish(Ok(pushed));
                }
                None => self.store_alone(job.looking_first()),
            }),
            Err(StoreError::Unavailable(error)) if !may_be_about_one(&error) => {
                batch.into_iter().for_each(|job| job.finish(Err(StoreError::Unavailable(error.clone()))));
            }
            Err(_) => batch.into_iter().for_each(|job| self.store_alone(job)),
        }
    }
}

/// Whether what makes a batch unavailable may be one of its logs: a lock, a deadlock, a statement that took too long.
fn may_be_about_one(error: &DbError) -> bool {
    error.sqlstate().is_some_and(|code| matches!(code, "40001" | "40P01" | "55P03" | "57014"))
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
