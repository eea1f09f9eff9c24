//! Which pushes go next: first come, first served in each log; each user in turn.

use super::job::Job;
use crate::protocol::{LogId, UserKey};
use std::collections::{HashMap, HashSet, VecDeque};
use uuid::Uuid;

/// How many pushes must wait for another batch to start, by how many run. With so many running none is started.
const MIN_BATCH: [usize; 6] = [1, 1, 2, 4, 8, 16];
/// Pushes in one batch, at most.
const MAX_PUSHES: usize = 64;
/// Changes in one batch, at most: about as many as take as long as a flush of the log.
const MAX_CHANGES: usize = 256;
/// Pushes that wait, at most.
const MAX_WAITING: usize = 20_000;
/// Of one user that are stored alone at the same time, at most: what is large, or waits for a lock.
const MAX_ALONE_PER_USER: usize = 2;

/// The pushes that wait.
#[derive(Debug)]
pub(super) struct FairQueue {
    logs: HashMap<LogId, LogQueue>,
    /// Of each user with any, the logs whose next push may ride.
    ready: HashMap<UserKey, VecDeque<LogId>>,
    /// The users with such logs, each once.
    ring: VecDeque<UserKey>,
    /// Pushes in those logs.
    ready_pushes: usize,
    /// Logs whose next push goes alone.
    ready_alone: VecDeque<LogId>,
    waiting: usize,
    /// Batches that run, but for the slow.
    batches: usize,
    alone: usize,
    alone_by_user: HashMap<UserKey, usize>,
    max_alone: usize,
}

/// What waits for one log. Logs without anything are not kept.
#[derive(Debug)]
struct LogQueue {
    user: UserKey,
    jobs: VecDeque<Job>,
    state: LogState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogState {
    /// Among those whose next push may ride.
    Ready,
    /// Among those whose next push goes alone.
    ReadyAlone,
    /// A push of it is being stored.
    Busy,
}

impl FairQueue {
    /// A queue before a pool of so many connections.
    pub(super) fn new(pool_size: usize) -> FairQueue {
        FairQueue {
            logs: HashMap::new(),
            ready: HashMap::new(),
            ring: VecDeque::new(),
            ready_pushes: 0,
            ready_alone: VecDeque::new(),
            waiting: 0,
            batches: 0,
            alone: 0,
            alone_by_user: HashMap::new(),
            max_alone: (pool_size / 2).max(1),
        }
    }

    /// Lets a push wait; gives it back if too many do.
    pub(super) fn push(&mut self, job: Job) -> Option<Job> {
        if self.waiting >= MAX_WAITING {
            return Some(job);
        }
        self.waiting += 1;
        let (id, user) = (job.entry.log.id, job.entry.log.user);
        match self.logs.get_mut(&id) {
            Some(log) => {
                log.jobs.push_back(job);
                self.ready_pushes += usize::from(log.state == LogState::Ready);
            }
            None => {
                let jobs = VecDeque::from([job]);
                self.logs.insert(id, LogQueue { user, jobs, state: LogState::Busy });
                self.release(id);
            }
        }
        None
    }

    /// Takes a push out; none if it does not wait any more.
    pub(super) fn remove(&mut self, id: LogId, job: u64) -> Option<Job> {
        let log = self.logs.get_mut(&id)?;
        let at = log.jobs.iter().position(|waiting| waiting.id == job)?;
        let job = log.jobs.remove(at)?;
        self.waiting -= 1;
        let (user, state, is_empty) = (log.user, log.state, log.jobs.is_empty());
        self.ready_pushes -= usize::from(state == LogState::Ready);
        if is_empty {
            match state {
                LogState::Ready => self.unlist(user, id),
                LogState::ReadyAlone => self.ready_alone.retain(|alone| *alone != id),
                // Released once what is being stored has ended.
                LogState::Busy => return Some(job),
            }
            self.logs.remove(&id);
        }
        Some(job)
    }

    /// Nothing of this log is being stored any more: its next push may be.
    pub(super) fn release(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        match log.jobs.front() {
            None => drop(self.logs.remove(&id)),
            Some(next) if next.goes_alone() => {
                log.state = LogState::ReadyAlone;
                self.ready_alone.push_back(id);
            }
            Some(_) => {
                log.state = LogState::Ready;
                self.ready_pushes += log.jobs.len();
                let ready = self.ready.entry(log.user).or_default();
                ready.push_back(id);
                if ready.len() == 1 {
                    self.ring.push_back(log.user);
                }
            }
        }
    }

    /// Puts pushes of a batch that has not been released yet in front of those that wait for their logs.
    pub(super) fn put_back(&mut self, jobs: Vec<Job>) {
        for job in jobs.into_iter().rev() {
            if let Some(log) = self.logs.get_mut(&job.entry.log.id) {
                log.jobs.push_front(job);
                self.waiting += 1;
            }
        }
    }

    /// A batch has ended, or is not counted any more.
    pub(super) fn batch_ended(&mut self) {
        self.batches -= 1;
    }

    /// A push of this user that was stored alone has ended.
    pub(super) fn alone_ended(&mut self, user: UserKey) {
        self.alone -= 1;
        if let Some(of_user) = self.alone_by_user.get_mut(&user) {
            *of_user -= 1;
            if *of_user == 0 {
                self.alone_by_user.remove(&user);
            }
        }
    }

    /// The next batch, if there is reason to start one: a push of each user in turn, until it is full. Its logs are busy
    /// until they are released.
    pub(super) fn next_batch(&mut self) -> Option<Vec<Job>> {
        let enough = *MIN_BATCH.get(self.batches)?;
        if self.ready_pushes < enough {
            return None;
        }
        let batch = self.fill();
        if batch.is_empty() {
            return None;
        }
        self.batches += 1;
        Some(batch)
    }

    fn fill(&mut self) -> Vec<Job> {
        let (mut batch, mut changes) = (Vec::new(), 0);
        // The logs in it, and what is stored in each.
        let mut taken: HashMap<LogId, HashSet<Uuid>> = HashMap::new();
        while batch.len() < MAX_PUSHES {
            let Some(user) = self.ring.pop_front() else { break };
            let Some(id) = self.ready.get_mut(&user).and_then(VecDeque::pop_front) else { continue };
            let Some(log) = self.logs.get_mut(&id) else { continue };
            let is_taken = taken.contains_key(&id);
            let next = log.jobs.front().filter(|job| !job.goes_alone());
            let fits = next.map(|job| batch.is_empty() || changes + job.size() <= MAX_CHANGES);
            // What is sent again while its first attempt waits would be refused, and the whole batch with it.
            let is_new =
                |job: &Job| taken.get(&id).is_none_or(|ids| !job.entry.rows.iter().any(|row| ids.contains(&row.id)));
            if fits == Some(false) {
                self.list_first(user, id);
                break;
            }
            match next.is_some_and(is_new).then(|| log.jobs.pop_front()).flatten() {
                Some(job) => {
                    self.waiting -= 1;
                    self.ready_pushes -= 1;
                    changes += job.size();
                    taken.entry(id).or_default().extend(job.entry.rows.iter().map(|row| row.id));
                    batch.push(job);
                    if !log.jobs.is_empty()
                        && let Some(ready) = self.ready.get_mut(&user)
                    {
                        ready.push_back(id);
                    }
                }
                // The rest of it waits for this batch.
                None if is_taken => self.ready_pushes -= log.jobs.len(),
                None => {
                    // Those before this one have been given up.
                    self.ready_pushes -= log.jobs.len();
                    log.state = LogState::ReadyAlone;
                    self.ready_alone.push_back(id);
                }
            }
            self.pass_on(user);
        }
        taken.into_keys().for_each(|id| self.set_busy(id));
        batch
    }

    /// The user's turn is over: the next one comes after all others'.
    fn pass_on(&mut self, user: UserKey) {
        match self.ready.get(&user) {
            Some(ready) if !ready.is_empty() => self.ring.push_back(user),
            _ => drop(self.ready.remove(&user)),
        }
    }

    /// Gives a turn back.
    fn list_first(&mut self, user: UserKey, id: LogId) {
        self.ready.entry(user).or_default().push_front(id);
        self.ring.push_front(user);
    }

    fn set_busy(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        let (user, left) = (log.user, log.jobs.len());
        log.state = LogState::Busy;
        let is_listed = self.ready.get(&user).is_some_and(|ready| ready.contains(&id));
        if is_listed {
            self.ready_pushes -= left;
            self.unlist(user, id);
        }
    }

    /// Takes a log from among the ready.
    fn unlist(&mut self, user: UserKey, id: LogId) {
        let Some(ready) = self.ready.get_mut(&user) else { return };
        ready.retain(|listed| *listed != id);
        if ready.is_empty() {
            self.ready.remove(&user);
            self.ring.retain(|listed| *listed != user);
        }
    }

    /// The next push that goes alone, if there is a place for it. Its log is busy until it is released.
    pub(super) fn next_alone(&mut self) -> Option<Job> {
        if self.alone >= self.max_alone {
            return None;
        }
        let has_place = |id: &LogId| {
            let user = self.logs.get(id).map(|log| log.user);
            user.is_some_and(|user| self.alone_by_user.get(&user).is_none_or(|count| *count < MAX_ALONE_PER_USER))
        };
        let at = self.ready_alone.iter().position(has_place)?;
        let id = self.ready_alone.remove(at)?;
        let log = self.logs.get_mut(&id)?;
        let job = log.jobs.pop_front()?;
        log.state = LogState::Busy;
        self.waiting -= 1;
        self.alone += 1;
        *self.alone_by_user.entry(log.user).or_default() += 1;
        Some(job)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
