//! Turns: users with ready logs, one after another.

use crate::protocol::{LogId, UserKey};
use std::collections::{HashMap, VecDeque};

/// Maximum number of idle users in the ring before it may be cleaned up.
const MAX_IDLE: usize = 64;

/// The ready logs, one log of each user in turn.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    /// The logs of each user in the ring. A user without any leaves the ring at the next turn.
    logs: HashMap<UserKey, VecDeque<LogId>>,
    /// Each user once.
    ring: VecDeque<UserKey>,
    /// Number of users in the ring without a log.
    idle: usize,
}

impl RoundRobin {
    /// Adds a log, after all others of its user. A log must not be added twice.
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

    /// Takes the first log of the user whose turn it is. The user's next turn comes after everybody else's.
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

    /// Returns the turn that was taken last.
    pub(super) fn give_back(&mut self, user: UserKey, log: LogId) {
        if let Some(logs) = self.logs.get_mut(&user) {
            logs.push_front(log);
            self.ring.pop_back();
        } else {
            self.logs.insert(user, VecDeque::from([log]));
        }
        self.ring.push_front(user);
    }

    /// Removes a log; false if it is not there. Searches only the user's logs.
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

    /// Returns true if no log is ready.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.ring.len() == self.idle && self.logs.len() == self.idle
    }
}

/// Maximum number of one user's pushes being stored in a lane at the same time.
const MAX_PER_USER: usize = 2;

/// Logs whose next push gets a statement of its own, and the number of those running.
#[derive(Debug)]
pub(super) struct Lane {
    ready: RoundRobin,
    /// The logs of users who have used up their places.
    without_place: HashMap<UserKey, VecDeque<LogId>>,
    running: usize,
    by_user: HashMap<UserKey, usize>,
    places: usize,
}

impl Lane {
    /// Creates a lane in which at most this many run at the same time.
    pub(super) fn new(places: usize) -> Lane {
        let (ready, without_place, by_user) = (RoundRobin::default(), HashMap::new(), HashMap::new());
        Lane { ready, without_place, running: 0, by_user, places }
    }

    /// Adds a log.
    pub(super) fn push(&mut self, user: UserKey, log: LogId) {
        self.ready.push(user, log);
    }

    /// Takes the next log, if there is a place for it; the place is in use until [`Lane::ended`].
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
            // Set aside until one of the user's pushes has ended.
            self.without_place.entry(user).or_default().push_back(log);
        }
    }

    /// Records the end of one of this user's pushes.
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

    /// Removes a log.
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

    /// Returns true if no log is ready.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.without_place.is_empty()
    }
}
