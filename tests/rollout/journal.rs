//! Records what the clients were told and what they saw, and when.

use crate::push_times::PushTimes;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Maximum delay of a change: G4, in the worst case.
const LATEST: Duration = Duration::from_secs(5);
/// Maximum number of late deliveries to report; the rest are only counted.
const TOLD: usize = 3;

/// Everything that has happened to the clients.
#[derive(Debug, Default)]
pub struct Journal {
    /// When each change was acknowledged, and its user.
    acknowledged: Mutex<HashMap<String, (usize, Instant)>>,
    /// When pushes were answered, and how long each took.
    pushes: Mutex<Vec<(Instant, Duration)>>,
    retried: AtomicUsize,
    connects: AtomicUsize,
    refusals: AtomicUsize,
    /// Number of closes by code; 0: a stream's end, or a broken connection.
    closes: Mutex<BTreeMap<u16, usize>>,
    /// Number of closes by client.
    closed: Mutex<HashMap<String, usize>>,
    readers: Mutex<Vec<Arc<Seen>>>,
    violations: Mutex<Vec<String>>,
}

/// The changes that one reader has seen, in order, with their times.
#[derive(Debug)]
pub struct Seen {
    pub name: String,
    pub user: usize,
    changes: Mutex<Vec<(String, Instant)>>,
}

impl Seen {
    pub fn add(&self, ids: impl Iterator<Item = String>) {
        let now = Instant::now();
        self.changes.lock().unwrap().extend(ids.map(|id| (id, now)));
    }

    pub fn count(&self) -> usize {
        self.changes.lock().unwrap().len()
    }
}

impl Journal {
    /// Records an acknowledged push, with its number of retries and its duration.
    pub fn acknowledged(&self, user: usize, id: &str, retries: u64, took: Duration) {
        let now = Instant::now();
        self.acknowledged.lock().unwrap().insert(id.to_owned(), (user, now));
        self.pushes.lock().unwrap().push((now, took));
        if retries > 0 {
            self.retried.fetch_add(1, Ordering::Relaxed);
        }
        if retries > 1 {
            self.violated(format!("the push of {id} took {retries} retries"));
        }
    }

    pub fn pushes(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    pub fn reader(&self, name: &str, user: usize) -> Arc<Seen> {
        let seen = Arc::new(Seen { name: name.to_owned(), user, changes: Mutex::default() });
        self.readers.lock().unwrap().push(seen.clone());
        seen
    }

    pub fn readers(&self) -> Vec<Arc<Seen>> {
        self.readers.lock().unwrap().clone()
    }

    pub fn connected(&self) {
        self.connects.fetch_add(1, Ordering::Relaxed);
    }

    pub fn refused(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    pub fn closed(&self, name: &str, code: Option<u16>) {
        *self.closes.lock().unwrap().entry(code.unwrap_or(0)).or_default() += 1;
        *self.closed.lock().unwrap().entry(name.to_owned()).or_default() += 1;
    }

    /// The number of times each client has been closed so far.
    pub fn closes(&self) -> HashMap<String, usize> {
        self.closed.lock().unwrap().clone()
    }

    /// Returns the durations of the pushes answered since then, and prints a summary.
    pub fn push_times(&self, when: &str, since: Instant) -> PushTimes {
        let pushes = self.pushes.lock().unwrap();
        let times = PushTimes(pushes.iter().filter(|(at, _)| *at >= since).map(|(_, took)| *took).collect());
        println!("      {when}: {}", times.summary());
        times
    }

    pub fn violated(&self, what: String) {
        self.violations.lock().unwrap().push(what);
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    /// A one-line summary so far.
    pub fn summary(&self) -> String {
        format!(
            "{} pushes, {} of them retried once; {} connects, {} refused; closes {:?}; latest {:?}",
            self.pushes(),
            self.retried.load(Ordering::Relaxed),
            self.connects.load(Ordering::Relaxed),
            self.refusals.load(Ordering::Relaxed),
            self.closes.lock().unwrap(),
            self.latest(),
        )
    }

    /// The longest time from an acknowledgement until a reader of the same user had the change.
    fn latest(&self) -> Duration {
        self.delays().into_iter().map(|(_, delay)| delay).max().unwrap_or_default()
    }

    fn delays(&self) -> Vec<(String, Duration)> {
        let acknowledged = self.acknowledged.lock().unwrap();
        let mut delays = Vec::new();
        for reader in self.readers() {
            for (id, at) in reader.changes.lock().unwrap().iter() {
                if let Some((_, acknowledged)) = acknowledged.get(id) {
                    delays.push((format!("{} had {id}", reader.name), at.saturating_duration_since(*acknowledged)));
                }
            }
        }
        delays
    }

    /// Compares what was acknowledged to a user and seen by its readers with what is stored.
    pub fn compare(&self, user: usize, stored: &[String]) {
        let acknowledged = self.acknowledged.lock().unwrap();
        let mut owed: Vec<&String> =
            acknowledged.iter().filter(|(_, (owner, _))| *owner == user).map(|(id, _)| id).collect();
        let mut kept: Vec<&String> = stored.iter().collect();
        owed.sort();
        kept.sort();
        if owed != kept {
            self.violated(format!(
                "of user {user} {} changes were acknowledged, {} are stored",
                owed.len(),
                kept.len()
            ));
        }
        drop(acknowledged);
        for reader in self.readers().iter().filter(|reader| reader.user == user) {
            let seen = reader.changes.lock().unwrap();
            if !seen.iter().map(|(id, _)| id).eq(stored) {
                self.violated(format!(
                    "{} saw {} of {} changes, or not in their order",
                    reader.name,
                    seen.len(),
                    stored.len()
                ));
            }
        }
    }

    /// Checks that every change arrived in time, apart from the time that devices gather wake-ups, and what a machine adds
    /// to it that is busy with other things: as much as ten pushes, of which nine in ten are quicker.
    pub fn compare_delays(&self, gather: Duration) {
        let mut pushes: Vec<Duration> = self.pushes.lock().unwrap().iter().map(|(_, took)| *took).collect();
        pushes.sort_unstable();
        let slack = pushes.get(pushes.len() * 9 / 10).map_or(Duration::ZERO, |took| *took * 10);
        let late: Vec<_> = self.delays().into_iter().filter(|(_, delay)| *delay > LATEST + gather + slack).collect();
        for (what, delay) in late.iter().take(TOLD) {
            self.violated(format!("{what} {delay:?} after it was acknowledged, one of {} that were late", late.len()));
        }
    }
}
