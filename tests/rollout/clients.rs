//! The clients: devices that push, devices that pull when woken, and streams. All of them know only the balancer, and
//! reconnect when their connection ends.

use crate::Size;
use crate::journal::{Journal, Seen};
use crate::support::*;
use mana_load::invariants::{Asked, Checks, Cursor};
use mana_load::protocol::{Change, Op, PushRequest};
use mana_load::stream::{StreamCheck, StreamError, StreamReader, StreamRequest};
use mana_load::transport::{RetryPolicy, Transport, http_client};
use mana_load::wakeups::{WakeMessage, WakeupError, Wakeups};
use serde_json::{Map, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

const APP: &str = "todo";
const TABLE: &str = "tasks";
/// Number of users that the clients belong to.
const USERS: usize = 3;
/// Number of devices per user that push, and the pause between two pushes of one.
const WRITERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(150);
/// Pause before a client reconnects, in milliseconds.
const RETURN: std::ops::Range<u64> = 20..200;
/// How long a client waits for something that may never come before it waits again.
const LISTEN: Duration = Duration::from_secs(60);

/// All clients at work.
pub struct Clients {
    pub journal: Arc<Journal>,
    pub users: Vec<User>,
    idle_users: Vec<User>,
    front: String,
    gather: Duration,
    http: reqwest::Client,
    stop_writing: CancellationToken,
    stop_reading: CancellationToken,
    writing: JoinSet<()>,
    reading: JoinSet<()>,
}

impl Clients {
    /// Starts the clients: sockets and half as many streams that read what a few writers write, and idle sockets. A
    /// woken device gathers further wake-ups for a while before it pulls.
    pub fn start(cluster: &Cluster, front: &str, size: Size) -> Clients {
        let Size { sockets, idle, gather, .. } = size;
        let mut clients = Clients {
            journal: Arc::default(),
            users: (0..USERS).map(|_| cluster.user()).collect(),
            idle_users: (0..USERS).map(|_| cluster.user()).collect(),
            front: front.to_owned(),
            gather,
            // Connections are kept alive, as browsers and balancers do: a stop finds some of them idle.
            http: http_client().unwrap(),
            stop_writing: CancellationToken::new(),
            stop_reading: CancellationToken::new(),
            writing: JoinSet::new(),
            reading: JoinSet::new(),
        };
        for number in 0..sockets {
            let client = clients.client(number % USERS, &format!("socket-{number}"));
            clients.reading.spawn(until(clients.stop_reading.clone(), client.pull_when_woken()));
        }
        for number in 0..sockets / 2 {
            let client = clients.client(number % USERS, &format!("stream-{number}"));
            clients.reading.spawn(until(clients.stop_reading.clone(), client.follow_stream()));
        }
        for number in 0..idle {
            let mut client = clients.client(number % USERS, &format!("idle-{number}"));
            client.token = clients.idle_users[number % USERS].token.clone();
            clients.reading.spawn(until(clients.stop_reading.clone(), client.be_there()));
        }
        for number in 0..WRITERS * USERS {
            let client = clients.client(number % USERS, &format!("writer-{number}"));
            let stop = clients.stop_writing.clone();
            clients.writing.spawn(client.write(stop));
        }
        clients
    }

    fn client(&self, user: usize, name: &str) -> Client {
        Client {
            name: name.to_owned(),
            user,
            token: self.users[user].token.clone(),
            front: self.front.clone(),
            gather: self.gather,
            http: self.http.clone(),
            journal: self.journal.clone(),
        }
    }

    pub async fn stop_writing(&mut self) {
        self.stop_writing.cancel();
        while let Some(ended) = self.writing.join_next().await {
            ended.unwrap();
        }
    }

    pub async fn stop_reading(&mut self) {
        self.stop_reading.cancel();
        while let Some(ended) = self.reading.join_next().await {
            ended.unwrap();
        }
    }

    /// The ids of a user's stored changes, in log order.
    pub async fn stored(&self, cluster: &Cluster, user: usize) -> Vec<String> {
        let rows = mana_load::fold::read_rows(&cluster.pool, &self.users[user].id, APP).await.unwrap();
        rows.into_iter().map(|row| row.record_id).collect()
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await;
}

/// A random pause, different for each client.
async fn come_back_later() {
    sleep(Duration::from_millis(rand::random_range(RETURN))).await;
}

struct Client {
    name: String,
    user: usize,
    token: String,
    front: String,
    gather: Duration,
    http: reqwest::Client,
    journal: Arc<Journal>,
}

impl Client {
    fn transport(&self) -> Transport {
        let policy = RetryPolicy {
            attempt: Duration::from_secs(5),
            deadline: Duration::from_secs(30),
            pause: Duration::from_millis(100),
        };
        let seed = rand::random();
        Transport::new(self.http.clone(), vec![self.front.clone()], self.token.clone(), policy, seed).unwrap()
    }

    /// Pushes one change after another; one retry must be enough.
    async fn write(self, stop: CancellationToken) {
        let mut transport = self.transport();
        let mut since = BEGINNING.to_owned();
        for number in 0.. {
            if stop.is_cancelled() {
                return;
            }
            let id = format!("{}-{number}", self.name);
            let data = Map::from_iter([("updatedAt".to_owned(), json!(iso(now_millis())))]);
            let change = Change { table: TABLE.into(), id: id.clone(), op: Op::Insert { data } };
            let request = PushRequest { client_id: self.name.clone(), since, changes: vec![change] };
            let (before, asked) = (transport.stats().retries, Instant::now());
            match transport.push(APP, &request, false).await {
                Ok(answer) => since = answer.synced_until,
                Err(error) => return self.journal.violated(format!("{}: a push failed: {error}", self.name)),
            }
            self.journal.acknowledged(self.user, &id, transport.stats().retries - before, asked.elapsed());
            stop.run_until_cancelled(sleep(PAUSE)).await;
        }
    }

    /// Pulls only when it has just connected or been woken.
    async fn pull_when_woken(self) {
        let seen = self.journal.reader(&self.name, self.user);
        let (mut transport, mut cursor, mut checks) = (self.transport(), Cursor::default(), Checks::default());
        loop {
            match Wakeups::connect(&self.front, Some(APP), &self.token, Some(&self.name)).await {
                Ok(mut socket) => {
                    self.journal.connected();
                    loop {
                        if !self.pull(&mut transport, &mut cursor, &mut checks, &seen).await {
                            return;
                        }
                        if !self.woken(&mut socket).await {
                            break;
                        }
                    }
                }
                Err(_) => self.journal.refused(),
            }
            come_back_later().await;
        }
    }

    /// Keeps an idle socket open.
    async fn be_there(self) {
        loop {
            match Wakeups::connect(&self.front, Some(APP), &self.token, Some(&self.name)).await {
                Ok(mut socket) => {
                    self.journal.connected();
                    while self.woken(&mut socket).await {}
                }
                Err(_) => self.journal.refused(),
            }
            come_back_later().await;
        }
    }

    /// Waits for a wake-up, and briefly for more of them. False if the socket is closed.
    async fn woken(&self, socket: &mut Wakeups) -> bool {
        let mut gathered = None;
        loop {
            let next = match gathered {
                None => socket.next(LISTEN).await,
                Some(end) => match timeout_at(end, socket.next(LISTEN)).await {
                    Ok(next) => next,
                    Err(_) => return true,
                },
            };
            match next {
                Ok(WakeMessage::SyncAvailable { .. }) => {
                    gathered.get_or_insert_with(|| Instant::now() + self.gather);
                }
                Ok(WakeMessage::Closed { code, .. }) => {
                    self.journal.closed(&self.name, code);
                    return false;
                }
                Err(WakeupError::Late { .. }) => {}
                Ok(_) | Err(_) => {
                    self.journal.closed(&self.name, None);
                    return false;
                }
            }
        }
    }

    /// Pulls everything there is. False if a violation was found.
    async fn pull(&self, transport: &mut Transport, cursor: &mut Cursor, checks: &mut Checks, seen: &Seen) -> bool {
        loop {
            let answer = match transport.pull(APP, TABLE, &cursor.value, &self.name).await {
                Ok(answer) => answer,
                Err(error) => {
                    self.journal.violated(format!("{}: a pull failed: {error}", self.name));
                    return false;
                }
            };
            if let Err(violation) = checks.answer(Asked { since: cursor, table: Some(TABLE) }, &answer) {
                self.journal.violated(format!("{}: {violation}", self.name));
                return false;
            }
            *cursor = cursor.after(&answer);
            seen.add(answer.server_changes.iter().map(|change| change.id.clone()));
            if !answer.has_more {
                return true;
            }
        }
    }

    /// Reads a stream, and resumes it whenever it ends.
    async fn follow_stream(self) {
        let seen = self.journal.reader(&self.name, self.user);
        let mut check = StreamCheck::default();
        let mut asked = StreamRequest {
            base: self.front.clone(),
            app: APP.to_owned(),
            token: self.token.clone(),
            client_id: Some(self.name.clone()),
            ..StreamRequest::default()
        };
        loop {
            match StreamReader::open(&self.http, &asked).await {
                Ok(mut stream) => {
                    self.journal.connected();
                    if let Err(error) = read(&mut stream, &mut check, &seen).await {
                        return self.journal.violated(format!("{}: {error}", self.name));
                    }
                    self.journal.closed(&self.name, None);
                }
                Err(_) => self.journal.refused(),
            }
            asked.last_event_id = check.last_id().map(str::to_owned);
            come_back_later().await;
        }
    }
}

/// Reads a stream until it ends in any way; an error is a violation.
async fn read(stream: &mut StreamReader, check: &mut StreamCheck, seen: &Seen) -> Result<(), StreamError> {
    // An interrupted page is sent again.
    let mut page = Vec::new();
    loop {
        match stream.next_delta(LISTEN).await {
            Ok(Some((id, delta))) => {
                check.observe(id.as_deref(), &delta)?;
                page.extend(delta.changes.into_iter().map(|change| change.id));
                if id.is_some() {
                    seen.add(page.drain(..));
                }
            }
            Ok(None) | Err(StreamError::Connection(_)) => return Ok(()),
            Err(StreamError::Late { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}
