//! The order of pushes: first come, first served within a log; round-robin between users.

use super::concurrency::ConcurrencyLimit;
use super::job::{Job, Way};
use super::round_robin::{Lane, RoundRobin};
use super::waiting::Waiting;
use crate::limits::reads::all_but_a_part;
use crate::protocol::{LogId, UserKey};
use prometheus::IntGauge;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// The number of waiting pushes needed to start another batch, by the number of running batches. With more running,
/// none is started.
const MIN_BATCH: [usize; 6] = [1, 1, 2, 4, 8, 16];
/// Maximum number of pushes in one batch.
const MAX_PUSHES: usize = 64;
/// Maximum number of changes in one batch: about as many as take as long as a WAL flush.
const MAX_CHANGES: usize = 256;

/// Very large pushes have this fraction of the pool's connections. Each of them occupies a processor of the database for
/// a second or so; the more run at the same time, the longer everybody's statements wait for one, and none of them ends
/// earlier (docs/adr/0045-what-takes-long-runs-in-turns.md).
const FOR_VERY_LARGE: usize = 6;

/// All pushes together leave this fraction of the pool's connections to reads, if it has more than one: whatever blocks
/// all writes, such as a lock or an unresponsive standby, blocks no reads.
const FOR_READS: usize = 4;
/// Pushes stored alone leave this fraction of the pushes' connections to batches.
const FOR_BATCHES: usize = 4;

/// The waiting pushes.
#[derive(Debug)]
pub(super) struct FairQueue {
    logs: HashMap<LogId, LogQueue>,
    /// The logs whose next push may share a batch.
    ready: RoundRobin,
    /// The number of pushes in those logs.
    ready_pushes: usize,
    /// Logs whose next push gets a statement of its own; they have half of the pool.
    alone: Lane,
    /// Logs whose next push is very large.
    very_large: Lane,
    /// Logs whose head was locked a moment ago; they have a quarter of the pool. They never hold up pushes that are
    /// merely large, or sent again.
    locked: Lane,
    waiting: Waiting,
    /// Running batches, without the slow ones.
    batches: usize,
    concurrency: ConcurrencyLimit,
    /// Running statements, including the slow batches; their maximum; and their maximum when one starts that is not a
    /// batch.
    running: usize,
    most: usize,
    most_for_alone: usize,
}

/// The pushes waiting for one log. Logs without any are not kept.
#[derive(Debug)]
struct LogQueue {
    user: UserKey,
    jobs: VecDeque<Job>,
    state: LogState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogState {
    /// The log is listed among those whose next push is stored this way.
    Ready(Way),
    /// A push of the log is being stored, or is pausing before its next attempt.
    Busy,
}

impl LogQueue {
    fn rides(&self) -> bool {
        self.state == LogState::Ready(Way::Shared)
    }
}

impl FairQueue {
    /// Creates a queue for a pool of this many connections, with a gauge of what waits in it.
    pub(super) fn new(pool_size: usize, waiting: IntGauge) -> FairQueue {
        let lane = |places: usize| Lane::new(places.max(1));
        let most = all_but_a_part(pool_size, FOR_READS);
        FairQueue {
            logs: HashMap::new(),
            ready: RoundRobin::default(),
            ready_pushes: 0,
            alone: lane(pool_size / 2),
            very_large: lane(pool_size / FOR_VERY_LARGE),
            locked: lane(pool_size / 4),
            waiting: Waiting::new(waiting),
            batches: 0,
            concurrency: ConcurrencyLimit::new(MIN_BATCH.len()),
            running: 0,
            most,
            most_for_alone: all_but_a_part(most, FOR_BATCHES),
        }
    }

    /// Queues a push. Gives it back if too many are waiting, in total or from its user.
    pub(super) fn push(&mut self, job: Job) -> Option<Job> {
        let (id, user) = (job.entry.log.id, job.entry.log.user);
        if !self.waiting.has_room(user) {
            return Some(job);
        }
        self.waiting.add(user);
        match self.logs.get_mut(&id) {
            Some(log) => {
                log.jobs.push_back(job);
                self.ready_pushes += usize::from(log.rides());
            }
            None => {
                let jobs = VecDeque::from([job]);
                self.logs.insert(id, LogQueue { user, jobs, state: LogState::Busy });
                self.release(id);
            }
        }
        None
    }

    /// Removes a push; `None` if it is no longer waiting.
    pub(super) fn remove(&mut self, id: LogId, job: u64) -> Option<Job> {
        let log = self.logs.get_mut(&id)?;
        let at = log.jobs.iter().position(|waiting| waiting.id == job)?;
        let job = log.jobs.remove(at)?;
        let (user, state, is_empty) = (log.user, log.state, log.jobs.is_empty());
        self.waiting.remove(user);
        self.ready_pushes -= usize::from(log.rides());
        if is_empty {
            match state {
                LogState::Ready(Way::Shared) => drop(self.ready.remove(user, id)),
                LogState::Ready(way) => self.lane(way).remove(user, id),
                // Released once the current statement has ended.
                LogState::Busy => return Some(job),
            }
            self.logs.remove(&id);
        }
        Some(job)
    }

    /// Marks a log as no longer being stored to: its next push may start.
    pub(super) fn release(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        let Some(next) = log.jobs.front() else { return drop(self.logs.remove(&id)) };
        let (way, user) = (next.way(), log.user);
        log.state = LogState::Ready(way);
        if way == Way::Shared {
            self.ready_pushes += log.jobs.len();
            self.ready.push(user, id);
        } else {
            self.lane(way).push(user, id);
        }
    }

    /// Returns the lane of those that have a statement of their own for this reason.
    fn lane(&mut self, way: Way) -> &mut Lane {
        match way {
            Way::Alone | Way::Shared => &mut self.alone,
            Way::VeryLarge => &mut self.very_large,
            Way::Locked => &mut self.locked,
        }
    }

    /// Returns pushes, whose logs are not released yet, to the front of their logs' queues.
    pub(super) fn put_back(&mut self, jobs: Vec<Job>) {
        for job in jobs.into_iter().rev() {
            if let Some(log) = self.logs.get_mut(&job.entry.log.id) {
                self.waiting.add(log.user);
                log.jobs.push_front(job);
            }
        }
    }

    /// Returns the number of running batches.
    pub(super) fn batches(&self) -> usize {
        self.batches
    }

    /// Records how long it took to store a batch of so many pushes and changes.
    pub(super) fn batch_stored(&mut self, pushes: usize, changes: usize, took: Duration, now: Instant) {
        self.concurrency.note(self.batches, pushes, changes, took, now);
    }

    /// Stops counting a batch, because it ended or is slow.
    pub(super) fn batch_ended(&mut self) {
        self.batches -= 1;
    }

    /// Records the end of a batch's statement.
    pub(super) fn batch_statement_ended(&mut self) {
        self.running -= 1;
    }

    /// Records the end of this user's push that had a statement of its own.
    pub(super) fn alone_ended(&mut self, way: Way, user: UserKey) {
        self.running -= 1;
        self.lane(way).ended(user);
    }

    /// Returns the next batch, if one should start: one push of each user in turn, until it is full. Its logs are busy
    /// until they are released.
    pub(super) fn next_batch(&mut self) -> Option<Vec<Job>> {
        let enough = *MIN_BATCH.get(self.batches)?;
        if self.ready_pushes < enough
            || self.running >= self.most
            || !self.concurrency.allows(self.batches, self.ready_pushes)
        {
            return None;
        }
        let batch = self.fill();
        if batch.is_empty() {
            return None;
        }
        self.batches += 1;
        self.running += 1;
        Some(batch)
    }

    fn fill(&mut self) -> Vec<Job> {
        let (mut batch, mut changes) = (Vec::new(), 0);
        // The logs in the batch, and the ids stored in each.
        let mut taken: HashMap<LogId, HashSet<Uuid>> = HashMap::new();
        while batch.len() < MAX_PUSHES {
            let Some((user, id)) = self.ready.next() else { break };
            let Some(log) = self.logs.get_mut(&id) else { continue };
            let is_taken = taken.contains_key(&id);
            let next = log.jobs.front().filter(|job| !job.goes_alone());
            let fits = next.map(|job| batch.is_empty() || changes + job.size() <= MAX_CHANGES);
            // A push that is sent again while its first attempt is waiting would violate a constraint and fail the
            // whole batch.
            let is_new =
                |job: &Job| taken.get(&id).is_none_or(|ids| !job.entry.rows.iter().any(|row| ids.contains(&row.id)));
            if fits == Some(false) {
                self.ready.give_back(user, id);
                break;
            }
            match next.is_some_and(is_new).then(|| log.jobs.pop_front()).flatten() {
                Some(job) => {
                    self.waiting.remove(user);
                    self.ready_pushes -= 1;
                    changes += job.size();
                    taken.entry(id).or_default().extend(job.entry.rows.iter().map(|row| row.id));
                    batch.push(job);
                    if !log.jobs.is_empty() {
                        self.ready.push(user, id);
                    }
                }
                // The rest of this log waits for this batch.
                None if is_taken => self.ready_pushes -= log.jobs.len(),
                None => {
                    // The pushes before this one have been abandoned.
                    self.ready_pushes -= log.jobs.len();
                    self.release(id);
                }
            }
        }
        taken.into_keys().for_each(|id| self.set_busy(id));
        batch
    }

    fn set_busy(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        log.state = LogState::Busy;
        if self.ready.remove(log.user, id) {
            self.ready_pushes -= log.jobs.len();
        }
    }

    /// Returns the next push that gets a statement of its own, if there is a place for it. Its log is busy until
    /// released.
    pub(super) fn next_alone(&mut self) -> Option<Job> {
        while self.running < self.most_for_alone {
            let ways = [Way::Alone, Way::VeryLarge, Way::Locked];
            let (id, way) = ways.into_iter().find_map(|way| Some((self.lane(way).next()?, way)))?;
            // A log is in a lane only while a push for it is waiting.
            let Some(log) = self.logs.get_mut(&id) else { continue };
            log.state = LogState::Busy;
            if let Some(job) = log.jobs.pop_front() {
                self.waiting.remove(log.user);
                self.running += 1;
                // The pushes before this one may have been abandoned.
                return Some(job.going(way));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
