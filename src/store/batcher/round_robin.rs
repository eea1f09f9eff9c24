//! Whose turn it is: users with logs that are ready, one after the other.

use crate::protocol::{LogId, UserKey};
use std::collections::{HashMap, VecDeque};

/// Users without a log that the ring may have before it is tidied up.
const MAX_IDLE: usize = 64;

/// Logs that are ready, a log of each user in turn.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    /// Of each user in the ring, the logs. Who has none any more leaves with the next turn.
    logs: HashMap<UserKey, VecDeque<LogId>>,
    /// Each user once.
    ring: VecDeque<UserKey>,
    /// Users in the ring without a log.
    idle: usize,
}

impl RoundRobin {
    /// Adds a log, after all others of its user. Each at most once.
    pub(super) fn push(&mut self, user: UserKey, log: LogId) {
        match self.logs.get_mut(&user) {
            Some(logs) => {
                self.idle -= usize::from(logs.is_empty());
                logs.push_back(log);
            }
            None => {
                self.logs.insert(user, VecDeque::from([log]));
                self.ring.push_back(user);
            }
        }
    }

    /// The first log of the user whose turn it is. The user's next turn comes after all others'.
    pub(super) fn next(&mut self) -> Option<(UserKey, LogId)> {
        loop {
            let user = self.ring.pop_front()?;
            let Some(logs) = self.logs.get_mut(&user) else { continue };
            let next = logs.pop_front();
            self.idle -= usize::from(next.is_none());
            match logs.is_empty() {
                true => drop(self.logs.remove(&user)),
                false => self.ring.push_back(user),
            }
            if let Some(log) = next {
                return Some((user, log));
            }
        }
    }

    /// Gives back the turn that was taken last.
    pub(super) fn give_back(&mut self, user: UserKey, log: LogId) {
        if let Some(logs) = self.logs.get_mut(&user) {
            logs.push_front(log);
            self.ring.pop_back();
        } else {
            self.logs.insert(user, VecDeque::from([log]));
        }
        self.ring.push_front(user);
    }

    /// Takes a log out; false if it is not in it. It looks at the user's logs alone.
    pub(super) fn remove(&mut self, user: UserKey, log: LogId) -> bool {
        let Some(logs) = self.logs.get_mut(&user) else { return false };
        let Some(at) = logs.iter().position(|listed| *listed == log) else { return false };
        logs.remove(at);
        self.idle += usize::from(logs.is_empty());
        if self.idle > MAX_IDLE && self.idle > self.ring.len() / 2 {
            self.logs.retain(|_, logs| !logs.is_empty());
            self.ring.retain(|user| self.logs.contains_key(user));
            self.idle = 0;
        }
        true
    }

    /// Whether no log is ready.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.ring.len() == self.idle && self.logs.len() == self.idle
    }
}

/// Of one user that are stored at the same time in a lane, at most.
const MAX_PER_USER: usize = 2;

/// Logs whose next push has a statement of its own, and how many of these run.
#[derive(Debug)]
pub(super) struct Lane {
    ready: RoundRobin,
    /// The logs of users who have all their places.
    without_place: HashMap<UserKey, VecDeque<LogId>>,
    running: usize,
    by_user: HashMap<UserKey, usize>,
    places: usize,
}

impl Lane {
    /// So many run at the same time, at most.
    pub(super) fn new(places: usize) -> Lane {
        let (ready, without_place, by_user) = (RoundRobin::default(), HashMap::new(), HashMap::new());
        Lane { ready, without_place, running: 0, by_user, places }
    }

    /// Adds a log.
    pub(super) fn push(&mut self, user: UserKey, log: LogId) {
        self.ready.push(user, log);
    }

    /// The next log, if there is a place for it: it is taken until [`Lane::ended`].
    pub(super) fn next(&mut self) -> Option<LogId> {
        if self.running >= self.places {
            return None;
        }
        loop {
            let (user, log) = self.ready.next()?;
            let of_user = self.by_user.entry(user).or_default();
            if *of_user < MAX_PER_USER {
                *of_user += 1;
                self.running += 1;
                return Some(log);
            }
            // It is not looked at again until one of the user's has ended.
            self.without_place.entry(user).or_default().push_back(log);
        }
    }

    /// One of this user's has ended.
    pub(super) fn ended(&mut self, user: UserKey) {
        self.running -= 1;
        if let Some(of_user) = self.by_user.get_mut(&user) {
            *of_user -= 1;
            if *of_user == 0 {
                self.by_user.remove(&user);
            }
        }
        if let Some(logs) = self.without_place.get_mut(&user) {
            if let Some(log) = logs.pop_front() {
                self.ready.push(user, log);
            }
            if logs.is_empty() {
                self.without_place.remove(&user);
            }
        }
    }

    /// Takes a log out.
    pub(super) fn remove(&mut self, user: UserKey, log: LogId) {
        if self.ready.remove(user, log) {
            return;
        }
        if let Some(logs) = self.without_place.get_mut(&user) {
            logs.retain(|listed| *listed != log);
            if logs.is_empty() {
                self.without_place.remove(&user);
            }
        }
    }

    /// Whether no log is ready.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.without_place.is_empty()
    }
}
