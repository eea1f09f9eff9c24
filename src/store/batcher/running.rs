//! Statements that are due, and those that run.

use super::Batcher;
use super::job::{Job, Way};
use super::queue::FairQueue;
use crate::protocol::{LogId, UserKey};
use std::collections::HashSet;

/// A statement to be started.
pub(super) enum Due {
    /// Pushes that share one, and whether it is a single push while no other batch is running.
    Batch(Vec<Job>, bool),
    Alone(Job),
}

/// Takes from the queue whatever is due.
pub(super) fn due(queue: &mut FairQueue) -> Vec<Due> {
    let mut due = Vec::new();
    while let Some(batch) = queue.next_batch() {
        let is_only = batch.len() == 1 && queue.batches() == 1;
        due.push(Due::Batch(batch, is_only));
    }
    while let Some(job) = queue.next_alone() {
        due.push(Due::Alone(job));
    }
    due
}

/// A running batch. On drop, whatever the outcome, its logs are released and others may start.
pub(super) struct RunningBatch {
    batcher: Batcher,
    logs: HashSet<LogId>,
    counts: bool,
    /// False: the runtime is shutting down, and nothing else is started.
    has_begun: bool,
}

impl RunningBatch {
    pub(super) fn new(batcher: Batcher, batch: &[Job]) -> RunningBatch {
        let logs = batch.iter().map(|job| job.entry.log.id).collect();
        RunningBatch { batcher, logs, counts: true, has_begun: false }
    }

    pub(super) fn begin(&mut self) {
        self.has_begun = true;
    }

    /// It takes long, and others may run in its place.
    pub(super) fn no_longer_counts(&mut self) {
        if std::mem::replace(&mut self.counts, false) {
            self.batcher.change(FairQueue::batch_ended);
        }
    }
}

impl Drop for RunningBatch {
    fn drop(&mut self) {
        if !self.has_begun {
            return;
        }
        self.batcher.change(|queue| {
            queue.batch_statement_ended();
            if self.counts {
                queue.batch_ended();
            }
            self.logs.iter().for_each(|log| queue.release(*log));
        });
    }
}

/// A push that is being stored alone; the same applies.
pub(super) struct RunningAlone {
    batcher: Batcher,
    log: LogId,
    user: UserKey,
    /// The lane in which it has a place.
    place: Option<Way>,
    /// False: the runtime is shutting down, and nothing else is started.
    has_begun: bool,
}

impl RunningAlone {
    pub(super) fn new(batcher: Batcher, job: &Job) -> RunningAlone {
        let (log, user, place) = (job.entry.log.id, job.entry.log.user, Some(job.way()));
        RunningAlone { batcher, log, user, place, has_begun: false }
    }

    pub(super) fn begin(&mut self) {
        self.has_begun = true;
    }

    /// Returns the push to the front of its log's queue, and releases its place.
    pub(super) fn put_back(&mut self, job: Job) {
        let (place, user) = (self.place.take(), self.user);
        self.batcher.change(|queue| {
            queue.put_back(vec![job]);
            if let Some(way) = place {
                queue.alone_ended(way, user);
            }
        });
    }
}

impl Drop for RunningAlone {
    fn drop(&mut self) {
        if !self.has_begun {
            return;
        }
        let place = self.place.take();
        self.batcher.change(|queue| {
            if let Some(way) = place {
                queue.alone_ended(way, self.user);
            }
            queue.release(self.log);
        });
    }
}
