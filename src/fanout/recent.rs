//! Tells a session that has just come what was stored shortly before (G4): existing clients do not pull when their
//! socket comes back, and nobody woke them while it was away.
//!
//! A session asks once, after it has joined the hub, so that nothing falls in between. Those that ask at about the
//! same time are answered together: clients that return all at once cost a few statements, one after the other on
//! one connection. While the database is away, requests wait for it, for a few minutes at most, and reach back by as much
//! more.

use super::Wakeup;
use super::reconciler::{Dependencies, LOGS_PER_QUERY, QUEUE, changed_tables};
use crate::protocol::{LogId, UserKey};
use crate::store::{LogRange, RecentHead, StoreError};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

/// Sessions answered together, at most.
const MAX_BATCH: usize = 5_000;
/// How long a look-up waits for others to join it.
const GATHER: Duration = Duration::from_millis(20);
/// Pause before a look-up that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a request is tried, so that one that cannot be answered does not keep all others waiting for ever.
const GIVE_UP: Duration = Duration::from_secs(300);

/// For each log that a session should be told of, and for each device that stored something in it, a wake-up. Their
/// ranges end where the log stood.
pub type RecentChanges = Arc<[Wakeup]>;

/// What a session asks.
#[derive(Debug)]
pub(super) struct Request {
    user: UserKey,
    /// None: all apps of the user.
    app: Option<Arc<str>>,
    asked: Instant,
    answer: oneshot::Sender<RecentChanges>,
}

/// Where sessions ask.
pub(super) type Requests = mpsc::Sender<Request>;

/// A queue of requests. It is bounded; whoever finds it full waits.
pub(super) fn queue() -> (Requests, mpsc::Receiver<Request>) {
    mpsc::channel(QUEUE)
}

/// A session's request, and the answer that it waits for.
#[derive(Debug)]
pub struct RecentRequest {
    requests: Requests,
    user: UserKey,
    app: Option<Arc<str>>,
    asked: Instant,
    answer: Option<oneshot::Receiver<RecentChanges>>,
}

impl RecentRequest {
    pub(super) fn new(requests: Requests, user: UserKey, app: Option<Arc<str>>) -> RecentRequest {
        RecentRequest { requests, user, app, asked: Instant::now(), answer: None }
    }

    /// What was stored in the time before the request was made; nothing if the replica is stopping. Takes as long as
    /// the database is away. May be given up and asked again.
    pub async fn answer(&mut self) -> RecentChanges {
        if self.answer.is_none() {
            let Ok(place) = self.requests.reserve().await else { return RecentChanges::default() };
            let (answer, receiver) = oneshot::channel();
            self.answer = Some(receiver);
            place.send(Request { user: self.user, app: self.app.clone(), asked: self.asked, answer });
        }
        match &mut self.answer {
            Some(answer) => answer.await.unwrap_or_default(),
            None => RecentChanges::default(),
        }
    }
}

/// Answers requests until nobody is left to make one.
pub(super) async fn run(dependencies: &Dependencies, mut requests: mpsc::Receiver<Request>) {
    let mut batch = Vec::new();
    while let Some(first) = requests.recv().await {
        batch.push(first);
        sleep(GATHER).await;
        while batch.len() < MAX_BATCH
            && let Ok(request) = requests.try_recv()
        {
            batch.push(request);
        }
        answer_all(dependencies, &mut batch).await;
    }
}

async fn answer_all(dependencies: &Dependencies, batch: &mut Vec<Request>) {
    loop {
        // Who has gone in the meantime need not be told.
        batch.retain(|request| !request.answer.is_closed());
        let given_up = batch.extract_if(.., |request| request.asked.elapsed() > GIVE_UP).count();
        if given_up > 0 {
            tracing::error!(sessions = given_up, "sessions were not told what was stored before they came");
        }
        if batch.is_empty() {
            return;
        }
        match look_up(dependencies, batch).await {
            Ok(recent) => {
                for request in batch.drain(..) {
                    // A session that goes now does not mind.
                    let _ = request.answer.send(recent.get(&request.user).cloned().unwrap_or_default());
                }
            }
            Err(error) => {
                dependencies.metrics.reconcile_failures.inc();
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    sessions = batch.len(),
                    "sessions cannot be told what was stored before they came; trying again"
                );
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// What the sessions of one user want to know.
#[derive(Debug, Default)]
struct Wanted<'a> {
    /// How far back.
    age: Duration,
    all_apps: bool,
    apps: HashSet<&'a str>,
}

/// Looks up what was stored recently, for the users of a batch.
async fn look_up(
    dependencies: &Dependencies,
    batch: &[Request],
) -> Result<HashMap<UserKey, RecentChanges>, StoreError> {
    let mut wanted: HashMap<UserKey, Wanted<'_>> = HashMap::new();
    for request in batch {
        let wanted = wanted.entry(request.user).or_default();
        wanted.age = wanted.age.max(dependencies.recent + request.asked.elapsed());
        match &request.app {
            Some(app) => drop(wanted.apps.insert(app)),
            None => wanted.all_apps = true,
        }
    }
    let ages: Vec<(UserKey, Duration)> = wanted.iter().map(|(user, wanted)| (*user, wanted.age)).collect();
    dependencies.metrics.recent_lookups.inc();
    let mut heads = dependencies.store.recent_heads(&ages).await?;
    heads.retain(|RecentHead { head, .. }| {
        wanted.get(&head.user).is_some_and(|wanted| wanted.all_apps || wanted.apps.contains(head.app.as_str()))
    });
    let mut recent: HashMap<UserKey, Vec<Wakeup>> = HashMap::new();
    for heads in heads.chunks(LOGS_PER_QUERY) {
        for wakeup in wakeups(dependencies, heads).await? {
            recent.entry(wakeup.user).or_default().push(wakeup);
        }
    }
    Ok(recent.into_iter().map(|(user, wakeups)| (user, wakeups.into())).collect())
}

/// A wake-up for each device that recently stored something in one of these logs.
async fn wakeups(dependencies: &Dependencies, heads: &[RecentHead]) -> Result<Vec<Wakeup>, StoreError> {
    let range = |recent: &RecentHead| LogRange {
        log: LogId::of(recent.head.user, &recent.head.app),
        after: recent.since,
        last: recent.head.at,
    };
    let ranges: Vec<LogRange> = heads.iter().map(range).collect();
    let mut changed = changed_tables(&dependencies.store, &ranges).await?;
    let mut wakeups = Vec::new();
    for (RecentHead { head, .. }, range) in heads.iter().zip(ranges) {
        let app: Arc<str> = head.app.as_str().into();
        let by_client = changed.remove(&range.log).unwrap_or_default();
        wakeups.extend(by_client.into_iter().map(|(client, tables)| Wakeup {
            user: head.user,
            app: app.clone(),
            client: Some(client.into()),
            tables: Some(tables),
            ranges: vec![(range.after, range.last)],
            pushes: vec![],
        }));
    }
    Ok(wakeups)
}
