//! Tells a new session what was stored shortly before (G4): existing clients do not pull when their socket reconnects,
//! and nobody woke them while it was away.
//!
//! A session asks once, after it has joined the hub, so that nothing falls in between. Requests made at about the same
//! time are answered together: clients that return all at once cost a few statements, one after the other on one
//! connection. While the database is away, requests wait for it, for a few minutes at most, and reach back further by
//! the time waited.
//!
//! No session is told more at once than it may have waiting (G6): one that has to be told of very many tables asks for
//! the rest once it has taken the first part. Sessions that are told the same share it.

use super::Wakeup;
use super::changes::{self, Changed, MAX_NAMES, RANGES_PER_QUERY};
use super::dependencies::{Dependencies, QUEUE};
use crate::protocol::{LogId, UserKey};
use crate::store::{LogRange, RecentHead, StoreError};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

/// Maximum number of sessions answered together.
const MAX_BATCH: usize = 5_000;
/// The time that a look-up waits for others to join it.
const GATHER: Duration = Duration::from_millis(20);
/// Pause before a failed look-up is retried.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// The time that a statement usually takes at most. It looks back from its beginning, so that much of the time to look back
/// may be missing.
const USUAL_WAIT: Duration = Duration::from_millis(100);
/// Maximum time for which a request is retried: one that cannot be answered does not hold up all others forever.
const GIVE_UP: Duration = Duration::from_secs(300);

/// Maximum number of statements for what is told at once: a user who stored very much in few tables is told so in one
/// answer.
const MAX_ROUNDS: usize = 8;
/// Approximate maximum of bytes of names that one look-up gathers for all. The others ask again.
const MAX_GATHERED: usize = 16 << 20;

/// The changes that sessions are told of at once. Sessions that asked the same share it.
pub type RecentChanges = Arc<Recent>;

/// A wake-up for each log that a session should be told of and each device that stored something in it. Their ranges
/// end at the log's head, or where there is more to be told.
#[derive(Debug, Default)]
pub struct Recent {
    /// The part that can be told now.
    pub wakeups: Vec<Wakeup>,
    /// The rest.
    rest: Vec<Part>,
}

/// A range of one app's log that a user's sessions have yet to be told of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Part {
    app: Arc<str>,
    range: LogRange,
}

/// A session's request.
#[derive(Debug)]
pub(super) struct Request {
    user: UserKey,
    /// `None` means all apps of the user.
    app: Option<Arc<str>>,
    /// The parts that it has yet to be told; `None` if it has been told nothing.
    rest: Option<Arc<[Part]>>,
    asked: Instant,
    answer: oneshot::Sender<RecentChanges>,
}

/// Takes requests.
pub(super) type Requests = mpsc::Sender<Request>;

/// Creates a bounded queue of requests; senders wait when it is full.
pub(super) fn queue() -> (Requests, mpsc::Receiver<Request>) {
    mpsc::channel(QUEUE)
}

/// A session's request, and the answer it waits for.
#[derive(Debug)]
pub struct RecentRequest {
    requests: Requests,
    user: UserKey,
    app: Option<Arc<str>>,
    rest: Option<Arc<[Part]>>,
    asked: Instant,
    answer: Option<oneshot::Receiver<RecentChanges>>,
}

impl RecentRequest {
    pub(super) fn new(requests: Requests, user: UserKey, app: Option<Arc<str>>) -> RecentRequest {
        RecentRequest { requests, user, app, rest: None, asked: Instant::now(), answer: None }
    }

    /// Returns what was stored in the time before the request was made; nothing if the replica is stopping. Waits for
    /// as long as the database is away. Cancel safe.
    pub async fn answer(&mut self) -> RecentChanges {
        if self.answer.is_none() {
            let Ok(place) = self.requests.reserve().await else { return RecentChanges::default() };
            let (answer, receiver) = oneshot::channel();
            self.answer = Some(receiver);
            let (app, rest) = (self.app.clone(), self.rest.clone());
            place.send(Request { user: self.user, app, rest, asked: self.asked, answer });
        }
        match &mut self.answer {
            Some(answer) => answer.await.unwrap_or_default(),
            None => RecentChanges::default(),
        }
    }

    /// Prepares to ask for what this answer left out; false if that is nothing.
    pub fn go_on(&mut self, answered: &Recent) -> bool {
        let is_mine = |part: &&Part| self.app.as_ref().is_none_or(|app| *app == part.app);
        let rest: Arc<[Part]> = answered.rest.iter().filter(is_mine).cloned().collect();
        let is_left = !rest.is_empty();
        (self.rest, self.answer, self.asked) = (Some(rest), None, Instant::now());
        is_left
    }
}

/// Answers requests until there are no more senders.
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
        // Sessions that have gone in the meantime need no answer.
        batch.retain(|request| !request.answer.is_closed());
        let given_up = batch.extract_if(.., |request| request.asked.elapsed() > GIVE_UP).count();
        if given_up > 0 {
            tracing::error!(sessions = given_up, "sessions were not told what was stored before they connected");
        }
        if batch.is_empty() {
            return;
        }
        match look_up(dependencies, batch).await {
            Ok(answers) => {
                for (request, answer) in batch.drain(..).zip(answers) {
                    // A session that goes now does not mind.
                    let _ = request.answer.send(answer);
                }
            }
            Err(error) => {
                dependencies.metrics.reconcile_failures.inc();
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    sessions = batch.len(),
                    "cannot look up what was stored before sessions connected; trying again"
                );
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// The requests of one user's sessions.
#[derive(Debug, Default)]
struct Wanted<'a> {
    /// The time to look back.
    age: Duration,
    all_apps: bool,
    apps: HashSet<&'a str>,
}

/// An answer being built, for some sessions of a user.
#[derive(Debug, Default)]
struct Answer {
    recent: Recent,
    /// Size of the names in bytes.
    bytes: usize,
}

impl Answer {
    /// Takes what changed in the remaining parts, as much as is told at once.
    fn take(&mut self, user: UserKey, changed: impl IntoIterator<Item = Changed>) {
        let mut left = Vec::new();
        for (Part { app, range }, Changed { by_client, until, bytes }) in self.recent.rest.drain(..).zip(changed) {
            if self.bytes > 0 && self.bytes + bytes > MAX_NAMES {
                left.push(Part { app, range });
                continue;
            }
            self.bytes += bytes;
            self.recent.wakeups.extend(by_client.into_iter().map(|(client, tables)| Wakeup {
                user,
                app: app.clone(),
                client: Some(client),
                tables: Some(tables),
                ranges: vec![(range.after, until)],
                pushes: vec![],
            }));
            if until < range.last {
                left.push(Part { app, range: LogRange { after: until, ..range } });
            }
        }
        self.recent.rest = left;
    }

    fn wants_more(&self) -> bool {
        !self.recent.rest.is_empty() && self.bytes < MAX_NAMES
    }
}

/// The user of an answer, and what was asked.
type Question = (UserKey, Arc<[Part]>);

/// Looks up the answer to each request of a batch.
async fn look_up(dependencies: &Dependencies, batch: &[Request]) -> Result<Vec<RecentChanges>, StoreError> {
    dependencies.metrics.recent_lookups.inc();
    let fresh = recent_parts(dependencies, batch).await?;
    let nothing: Arc<[Part]> = Arc::default();
    let question = |request: &Request| -> Question {
        let parts = request.rest.as_ref().or_else(|| fresh.get(&request.user)).unwrap_or(&nothing);
        (request.user, parts.clone())
    };
    let questions: Vec<Question> = batch.iter().map(question).collect();
    let mut answers: HashMap<&Question, Answer> = HashMap::new();
    for question in &questions {
        let rest = || Recent { rest: question.1.to_vec(), ..Recent::default() };
        answers.entry(question).or_insert_with(|| Answer { recent: rest(), bytes: 0 });
    }
    gather(dependencies, &mut answers).await?;
    let answers: HashMap<&Question, RecentChanges> =
        answers.into_iter().map(|(question, answer)| (question, Arc::new(answer.recent))).collect();
    // Each question has its answer.
    Ok(questions.iter().map(|question| answers.get(question).cloned().unwrap_or_default()).collect())
}

/// Looks up changes for all answers that are incomplete, within the bounds for one look-up.
async fn gather(dependencies: &Dependencies, answers: &mut HashMap<&Question, Answer>) -> Result<(), StoreError> {
    for _ in 0..MAX_ROUNDS {
        let mut gathered: usize = answers.values().map(|answer| answer.bytes).sum();
        let mut wanting: Vec<(&&Question, &mut Answer)> =
            answers.iter_mut().filter(|(_, answer)| answer.wants_more()).collect();
        if wanting.is_empty() {
            break;
        }
        for some in chunks_by_ranges(&mut wanting) {
            if gathered > MAX_GATHERED {
                return Ok(());
            }
            let ranges: Vec<LogRange> =
                some.iter().flat_map(|(_, answer)| answer.recent.rest.iter().map(|part| part.range)).collect();
            let mut changed = Vec::with_capacity(ranges.len());
            for ranges in ranges.chunks(RANGES_PER_QUERY) {
                changed.extend(changes::look_up(&dependencies.heads, ranges).await?);
            }
            let mut changed = changed.into_iter();
            for (question, answer) in some {
                let count = answer.recent.rest.len();
                gathered -= answer.bytes;
                answer.take(question.0, changed.by_ref().take(count));
                gathered += answer.bytes;
            }
        }
    }
    Ok(())
}

/// Splits answers into chunks of about as many ranges as are queried in one statement.
fn chunks_by_ranges<'a, 'b, Q>(answers: &'a mut [(Q, &'b mut Answer)]) -> Vec<&'a mut [(Q, &'b mut Answer)]> {
    let (mut chunks, mut rest) = (Vec::new(), answers);
    while !rest.is_empty() {
        let mut ranges = 0;
        let more = rest.iter().skip(1).take_while(|(_, answer)| {
            ranges += answer.recent.rest.len();
            ranges < RANGES_PER_QUERY
        });
        let count = 1 + more.count();
        let (chunk, others) = rest.split_at_mut(count);
        chunks.push(chunk);
        rest = others;
    }
    chunks
}

/// Finds what was stored recently, and is not yet told, for the users of a batch who have been told nothing: of each
/// log, from where the recent part begins.
async fn recent_parts(
    dependencies: &Dependencies,
    batch: &[Request],
) -> Result<HashMap<UserKey, Arc<[Part]>>, StoreError> {
    let mut wanted: HashMap<UserKey, Wanted<'_>> = HashMap::new();
    for request in batch.iter().filter(|request| request.rest.is_none()) {
        let wanted = wanted.entry(request.user).or_default();
        match &request.app {
            Some(app) => drop(wanted.apps.insert(app)),
            None => wanted.all_apps = true,
        }
    }
    // The database looks back from when it is asked, which is later than now: a statement waits for its connection, as long
    // as a request may while the database is away. What is asked too late is asked again, for as much more as it took.
    let mut wait = Duration::ZERO;
    let heads = loop {
        for request in batch.iter().filter(|request| request.rest.is_none()) {
            let age = dependencies.recent + request.asked.elapsed() + wait;
            wanted.entry(request.user).and_modify(|wanted| wanted.age = wanted.age.max(age));
        }
        let begun = Instant::now();
        let heads = recent_heads(dependencies, &wanted).await?;
        if begun.elapsed() <= wait + USUAL_WAIT {
            break heads;
        }
        wait = begun.elapsed();
    };
    let mut parts: HashMap<UserKey, Vec<Part>> = HashMap::new();
    for RecentHead { head, since } in heads {
        let range = LogRange { log: LogId::of(head.user, &head.app), after: since, last: head.at };
        parts.entry(head.user).or_default().push(Part { app: head.app.into(), range });
    }
    Ok(parts.into_iter().map(|(user, parts)| (user, parts.into())).collect())
}

/// Reads the heads of the requested logs that were written to recently.
async fn recent_heads(
    dependencies: &Dependencies,
    wanted: &HashMap<UserKey, Wanted<'_>>,
) -> Result<Vec<RecentHead>, StoreError> {
    let reader = &dependencies.heads;
    let of_all_apps = wanted.iter().filter(|(_, wanted)| wanted.all_apps);
    let users: Vec<(UserKey, Duration)> = of_all_apps.map(|(user, wanted)| (*user, wanted.age)).collect();
    let of_some_apps = wanted.iter().filter(|(_, wanted)| !wanted.all_apps);
    let logs: Vec<(LogId, Duration)> = of_some_apps
        .flat_map(|(user, wanted)| wanted.apps.iter().map(|app| (LogId::of(*user, app), wanted.age)))
        .collect();
    let mut recent = Vec::new();
    if !users.is_empty() {
        let heads = reader.recent_of_users(&users).await?;
        recent = heads.heads;
        for user in heads.too_many {
            let age = wanted.get(&user).map_or(dependencies.recent, |wanted| wanted.age);
            match reader.newest_recent(user, age).await {
                Ok(heads) => recent.extend(heads),
                Err(error) if error.is_about_statement() => {
                    // Nobody else is affected.
                    dependencies.metrics.reconcile_failures.inc();
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        "the sessions of a user with very many logs were not told what was stored before they connected"
                    );
                }
                Err(error) => return Err(error),
            }
        }
    }
    if !logs.is_empty() {
        recent.extend(reader.recent_of_logs(&logs).await?);
    }
    Ok(recent)
}

#[cfg(test)]
mod tests;
