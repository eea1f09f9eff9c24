//! The clients that work during the faults, and what all of them have seen.

use crate::cluster::FaultyCluster;
use crate::support::*;
use mana_load::device::{Device, DeviceError, DeviceOptions};
use mana_load::protocol::{Change, Op};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, json};
use sqlx::types::chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The tables that devices pull. Others are delivered only by streams and pushes.
pub const TABLES: [&str; 2] = ["tasks", "lists"];
/// How long a device retries before the suite reports a failure.
const DEADLINE: Duration = Duration::from_secs(90);
/// Maximum time of one attempt: a person would have given up by then.
const ATTEMPT: Duration = Duration::from_secs(4);
/// Number of changes in a large push: many pages, but not a benchmark of a debug build.
const HUGE: usize = 3_000;
/// Number of devices that push at once in a storm.
const STORM: usize = 8;

/// A user with an app of its own, to show when another user's app is notified.
#[derive(Clone, Debug)]
pub struct Party {
    pub user: User,
    pub app: String,
}

/// The kind of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Follows the cursor of one table.
    Pull(&'static str),
    /// Follows the cursor of empty pushes.
    Push,
    /// A stream of all tables.
    Stream,
    /// Pulls only when it is woken or has just connected. Only counts the changes.
    Woken,
    /// A stream that is given up: it has the beginning of the log, page by page.
    Beginning,
}

/// A reader, with what it has seen.
#[derive(Debug)]
pub struct Reader {
    pub name: String,
    pub party: usize,
    pub kind: Kind,
    count: AtomicUsize,
    /// Number of times it has connected.
    connects: AtomicUsize,
    seen: Mutex<Vec<Change>>,
    /// The cursor up to which a stream that was given up has read.
    until: Mutex<Option<DateTime<Utc>>>,
}

impl Reader {
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub fn add_count(&self, count: usize) {
        self.count.fetch_add(count, Ordering::AcqRel);
    }

    pub fn connects(&self) -> usize {
        self.connects.load(Ordering::Acquire)
    }

    pub fn connected(&self) {
        self.connects.fetch_add(1, Ordering::AcqRel);
    }

    pub fn add(&self, changes: Vec<Change>) {
        let count = changes.len();
        lock(&self.seen).extend(changes);
        self.add_count(count);
    }

    /// Adds a page with its cursor.
    pub fn add_page(&self, changes: Vec<Change>, until: &str) {
        self.add(changes);
        *lock(&self.until) = Some(until.parse().unwrap());
    }

    pub fn until(&self) -> Option<DateTime<Utc>> {
        *lock(&self.until)
    }

    /// True if it has the changes of a page by table.
    pub fn is_grouped(&self) -> bool {
        matches!(self.kind, Kind::Stream | Kind::Beginning)
    }

    pub fn seen(&self) -> Vec<Change> {
        lock(&self.seen).clone()
    }

    /// True if it is notified of changes, so that it must not be late.
    pub fn is_told(&self) -> bool {
        matches!(self.kind, Kind::Stream | Kind::Woken)
    }

    /// True if changes of this table reach it.
    pub fn reads(&self, table: &str) -> bool {
        match self.kind {
            Kind::Pull(own) => own == table,
            Kind::Woken => TABLES.contains(&table),
            Kind::Push | Kind::Stream | Kind::Beginning => true,
        }
    }
}

/// The changes pushed by each device, in order.
pub type Acknowledged = BTreeMap<(usize, String), Vec<String>>;

/// All clients at work.
pub struct Workload {
    pub parties: Vec<Party>,
    pub seed: u64,
    /// Stops the writers before their next push.
    pub stop_writing: CancellationToken,
    /// Stops the readers.
    pub stop_reading: CancellationToken,
    readers: Mutex<Vec<Arc<Reader>>>,
    acknowledged: Mutex<Acknowledged>,
    /// Pushes that got no response and were not retried: stored in full, or not at all.
    unanswered: Mutex<Vec<(usize, Vec<String>)>>,
    violations: Mutex<Vec<String>>,
    number: AtomicU64,
    stage: Mutex<&'static str>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The text that distinguishes a change from all others of its device.
pub fn mark_of(table: &str, id: &str, op: &str, value: Option<&str>) -> String {
    format!("{op} {table}/{id} {}", value.unwrap_or_default())
}

impl Workload {
    pub fn new(cluster: &FaultyCluster, seed: u64, users: usize) -> Workload {
        let party = |number| Party { user: cluster.inner.user(), app: format!("app-{number}") };
        Workload {
            parties: (0..users).map(party).collect(),
            seed,
            stop_writing: CancellationToken::new(),
            stop_reading: CancellationToken::new(),
            readers: Mutex::default(),
            acknowledged: Mutex::default(),
            unanswered: Mutex::default(),
            violations: Mutex::default(),
            number: AtomicU64::new(0),
            stage: Mutex::new("breaking things"),
        }
    }

    pub fn reader(&self, name: String, party: usize, kind: Kind) -> Arc<Reader> {
        let (count, connects) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let reader =
            Arc::new(Reader { name, party, kind, count, connects, seen: Mutex::default(), until: Mutex::default() });
        lock(&self.readers).push(reader.clone());
        reader
    }

    pub fn readers(&self) -> Vec<Arc<Reader>> {
        lock(&self.readers).clone()
    }

    pub fn violated(&self, what: String) {
        lock(&self.violations).push(what);
    }

    pub fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    pub fn acknowledged(&self) -> Acknowledged {
        lock(&self.acknowledged).clone()
    }

    pub fn unanswered(&self) -> Vec<(usize, Vec<String>)> {
        lock(&self.unanswered).clone()
    }

    /// Records the current stage of the run, in case it never ends.
    pub fn enter(&self, stage: &'static str) {
        *lock(&self.stage) = stage;
    }

    pub fn stage(&self) -> &'static str {
        *lock(&self.stage)
    }

    /// A random number generator of its own for each client, the same for the same seed.
    pub fn rng(&self, who: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(who))
    }

    /// A unique number.
    pub fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// The options of every device of a party.
    pub fn options(&self, cluster: &FaultyCluster, party: usize, client: &str) -> DeviceOptions {
        let Party { user, app } = &self.parties[party];
        let mut options = DeviceOptions::new(app, client, &user.token, cluster.urls(), &TABLES);
        options.seed = self.rng(client.bytes().map(u64::from).sum()).random();
        options.canonical_stamps = true;
        // Two devices may delete at the same instant: such deletes look like a change that comes back.
        options.check_own = false;
        options.retry.deadline = DEADLINE;
        options.retry.attempt = ATTEMPT;
        options
    }

    pub fn device(&self, cluster: &FaultyCluster, party: usize, client: &str) -> Device {
        Device::new(cluster.inner.http.clone(), self.options(cluster, party, client)).unwrap()
    }

    /// Pushes these changes until they are acknowledged. False if they never were.
    pub async fn push(&self, party: usize, device: &mut Device, changes: Vec<Change>) -> bool {
        let marks: Vec<String> = changes.iter().map(mark).collect();
        changes.into_iter().for_each(|change| device.edit(change));
        let pushed = device.push().await;
        if let Err(error) = &pushed {
            self.failed(device.client_id(), error);
            return false;
        }
        lock(&self.acknowledged).entry((party, device.client_id().to_owned())).or_default().extend(marks);
        true
    }

    /// A device that fails is a violation: it had enough time.
    pub fn failed(&self, who: &str, error: &DeviceError) {
        let mut text = format!("{who}: {error}");
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            text += &format!(": {inner}");
            source = inner.source();
        }
        self.violated(text);
    }

    /// A push that crashes its replica between the commit and the notification.
    pub async fn push_and_crash(&self, cluster: &FaultyCluster, replica: usize) {
        let party = replica % self.parties.len();
        let client = format!("crash-{}", self.next_number());
        let changes: Vec<Change> = (0..3).map(|n| insert_of(TABLES[0], &format!("{client}-{n}"))).collect();
        let marks: Vec<String> = changes.iter().map(mark).collect();
        let body = json!({ "clientId": client, "since": live::NO_DELTA, "changes": changes });
        let Party { user, app } = &self.parties[party];
        let request = cluster.inner.http.post(format!("{}/sync/{app}", cluster.urls()[replica]));
        let request = request.bearer_auth(&user.token).header("X-Test-Crash", "before-notify").timeout(ATTEMPT);
        // A response means that it could not be stored: otherwise, the process exits before it answers.
        let answer = request.header("Content-Type", "application/json").body(body.to_string()).send().await;
        if let Ok(answer) = answer
            && answer.status() == 200
        {
            self.violated("a push that was to end its replica was answered".into());
        }
        lock(&self.unanswered).push((party, marks));
    }

    /// Several devices of one user push without a pause.
    pub async fn push_without_pause(&self, cluster: &FaultyCluster, replica: usize, end: Instant) {
        let storm = (0..STORM).map(|_| async {
            let client = format!("storm-{}", self.next_number());
            let mut options = self.options(cluster, 0, &client);
            options.targets = vec![cluster.urls()[replica].clone()];
            let mut device = Device::new(cluster.inner.http.clone(), options).unwrap();
            for n in 0.. {
                let change = insert_of("storm", &format!("{client}-{n}"));
                if !self.push(0, &mut device, vec![change]).await || Instant::now() >= end {
                    return;
                }
            }
        });
        futures_util::future::join_all(storm).await;
    }

    /// Pushes thousands of changes at once, and changes to hundreds of tables.
    pub async fn push_at_the_limits(&self, cluster: &FaultyCluster, replica: usize) {
        let party = replica % self.parties.len();
        let client = format!("huge-{}", self.next_number());
        let mut device = self.device(cluster, party, &client);
        let many = (0..HUGE).map(|n| insert_of("bulk", &format!("{client}-{n}"))).collect();
        self.push(party, &mut device, many).await;
        let wide = (0..300).map(|n| insert_of(&format!("table {n} {}", "x".repeat(50)), &client)).collect();
        self.push(party, &mut device, wide).await;
    }
}

/// An insert that is marked by its id.
pub fn insert_of(table: &str, id: &str) -> Change {
    let data = Map::from_iter([("mark".into(), json!(id)), ("updatedAt".into(), json!(iso(now_millis())))]);
    Change { table: table.into(), id: id.into(), op: Op::Insert { data } }
}

/// See [`mark_of`]; each change gets a unique value.
pub fn mark(change: &Change) -> String {
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let (op, value) = match &change.op {
        Op::Insert { data } => ("insert", data.get("mark").and_then(text)),
        Op::Update { fields } => ("update", fields.values().next().and_then(|write| text(&write.value))),
        Op::Delete { .. } => ("delete", None),
    };
    mark_of(&change.table, &change.id, op, value.as_deref())
}
