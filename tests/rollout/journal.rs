//! Records what the clients were told and what they saw, and when.

use crate::push_times::PushTimes;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How late a change may be: G4, in the worst case.
const LATEST: Duration = Duration::from_secs(5);
/// Violations of one kind that are told; the others are counted.
const TOLD: usize = 3;

/// What has happened to everybody.
#[derive(Debug, Default)]
pub struct Journal {
    /// When each change was acknowledged, and whose it is.
    acknowledged: Mutex<HashMap<String, (usize, Instant)>>,
    /// When pushes were answered, and how long each took.
    pushes: Mutex<Vec<(Instant, Duration)>>,
    retried: AtomicUsize,
    connects: AtomicUsize,
    refusals: AtomicUsize,
    /// By close code; 0: a stream's end, or a connection that broke.
    closes: Mutex<BTreeMap<u16, usize>>,
    /// By client: how often it was closed.
    closed: Mutex<HashMap<String, usize>>,
    readers: Mutex<Vec<Arc<Seen>>>,
    violations: Mutex<Vec<String>>,
}

/// What one reader has seen, in order, and when.
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
    /// A push was answered after so many retries, and so long after it was sent.
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

    /// How often each client was closed so far.
    pub fn closes(&self) -> HashMap<String, usize> {
        self.closed.lock().unwrap().clone()
    }

    /// How long the pushes took that were answered since then. Prints it.
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

    /// So far, in a line.
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

    /// The longest that it took from an acknowledgement until a reader of its user had the change.
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

    /// Compares what was acknowledged and seen of a user with what is stored.
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

    /// Everybody who is told of changes must have had each in time, but for what devices gather on their own.
    pub fn compare_delays(&self, gather: Duration) {
        let late: Vec<_> = self.delays().into_iter().filter(|(_, delay)| *delay > LATEST + gather).collect();
        for (what, delay) in late.iter().take(TOLD) {
            self.violated(format!("{what} {delay:?} after it was acknowledged, one of {} that were late", late.len()));
        }
    }
}
