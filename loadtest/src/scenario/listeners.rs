//! WebSockets and streams that stay open, reconnect when they break, and record what they received and when.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc, watch};

use super::population::{APP, Ledger, Population, User};
use crate::engine::{Endpoint, Failure, Feed, Socket, SocketEvent};
use crate::protocol::BEGINNING;
use crate::report::{OperationId, Recorder, Worker};

/// The first pause before a broken connection is reopened, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
const OPENING: Duration = Duration::from_secs(20);

/// The run's instructions to all listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Whenever this changes, every connection breaks and reconnects.
    pub generation: u64,
    /// Nobody pushes any more: a listener ends when it has received everything, or at this time.
    pub until: Option<Instant>,
}

/// What a listener waited for, or what came first.
enum Next<T> {
    Came(T),
    /// Break the connection and reconnect.
    Drop,
    /// Receive what is left, and end.
    Settle,
    Late,
}

/// The dependencies of listeners.
pub struct Surroundings {
    pub population: Arc<Population>,
    pub recorder: Arc<Recorder>,
    pub endpoints: Arc<[Endpoint]>,
    pub orders: watch::Receiver<Order>,
    /// Limits how many connections are opened at the same time, so that the listen queue is not what is measured.
    pub opening: Arc<Semaphore>,
}

/// How often each change arrived, by push and index.
pub type Changes = HashMap<(u64, usize), u32>;

/// What a listener received, for the checks at the end.
pub enum Account {
    Socket { user: Arc<User>, last_wakeup: Option<Instant> },
    Stream { user: Arc<User>, heard: Changes },
}

/// A listener, from its first connection until it is told to stop.
pub struct Listener {
    around: Arc<Surroundings>,
    user: Arc<User>,
    name: String,
    worker: Worker,
    connect: OperationId,
    rng: StdRng,
    orders: watch::Receiver<Order>,
}

impl Listener {
    /// None if the recorder has no operation for connections.
    pub fn new(around: &Arc<Surroundings>, number: usize) -> Option<Self> {
        let users = &around.population.users;
        Some(Self {
            user: users[number % users.len()].clone(),
            name: format!("listener-{number}"),
            worker: around.recorder.worker(),
            connect: around.recorder.operation("connect")?,
            rng: StdRng::seed_from_u64(number as u64),
            orders: around.orders.clone(),
            around: around.clone(),
        })
    }

    /// Holds a WebSocket. `opened` is dropped with the first connection.
    pub async fn hold_socket(mut self, opened: mpsc::Sender<()>) -> Account {
        let operation = self.around.recorder.operation("wakeup");
        let (mut last_wakeup, mut seen, mut opened) = (None, 0, Some(opened));
        let open = |endpoint: Endpoint, name: String, user: Arc<User>| async move {
            Socket::open(&endpoint, &user.token, Some(&name), None).await
        };
        'connections: while let Some(mut socket) = self.open(open).await {
            opened.take();
            // The pull after a connect finds what was pushed while nobody listened.
            seen = self.user.ledger().sent.len().max(seen);
            last_wakeup = Some(Instant::now());
            let _held = self.worker.connected();
            let mut order = *self.orders.borrow();
            loop {
                if order.until.is_some() && missed_wakeup(&self.user, last_wakeup).is_none() {
                    break 'connections;
                }
                match next(&mut self.orders, order, socket.next()).await {
                    Next::Came(Ok(SocketEvent::Wakeup)) => {
                        last_wakeup = Some(Instant::now());
                        seen = self.note_wakeup(seen, operation);
                    }
                    Next::Came(Ok(SocketEvent::Other(_))) => {}
                    Next::Came(Ok(SocketEvent::Closed(_)) | Err(_)) | Next::Drop => break,
                    Next::Settle => order = *self.orders.borrow(),
                    Next::Late => break 'connections,
                }
            }
        }
        Account::Socket { user: self.user, last_wakeup }
    }

    /// Records the time since the oldest push without a wake-up was sent; returns how many have been sent.
    fn note_wakeup(&self, seen: usize, operation: Option<OperationId>) -> usize {
        let ledger = self.user.ledger();
        if let (Some(oldest), Some(operation)) = (ledger.sent.get(seen), operation) {
            self.worker.sent_now(operation);
            self.worker.done(operation, oldest.elapsed());
        }
        ledger.sent.len()
    }

    /// Holds a stream from the beginning of the user's log. `opened` is dropped with the first connection.
    pub async fn hold_stream(mut self, opened: mpsc::Sender<()>) -> Account {
        let operation = self.around.recorder.operation("delivery");
        let (mut heard, mut cursor, mut opened) = (Changes::new(), BEGINNING.to_owned(), Some(opened));
        'connections: loop {
            let since = &cursor;
            let open = |endpoint: Endpoint, name: String, user: Arc<User>| {
                let since = since.clone();
                async move { Feed::open(&endpoint, APP, &user.token, &name, Some(&since), None).await }
            };
            let Some(mut feed) = self.open(open).await else { break };
            opened.take();
            let _held = self.worker.connected();
            let mut order = *self.orders.borrow();
            // An interrupted page comes again: its events count with the last of them, which has an id.
            let mut page = Vec::new();
            loop {
                if order.until.is_some() && missed_changes(&self.user.ledger(), &heard).next().is_none() {
                    break 'connections;
                }
                match next(&mut self.orders, order, feed.next()).await {
                    Next::Came(Ok(Some(event))) if event.event == "changes" => {
                        page.push(event.data);
                        if let Some(id) = event.id {
                            page.drain(..).for_each(|data| self.note_changes(&data, &mut heard, operation));
                            cursor = id;
                        }
                    }
                    Next::Came(Ok(Some(_))) => {}
                    Next::Came(Ok(None) | Err(_)) | Next::Drop => break,
                    Next::Settle => order = *self.orders.borrow(),
                    Next::Late => break 'connections,
                }
            }
        }
        Account::Stream { user: self.user, heard }
    }

    fn note_changes(&self, data: &str, heard: &mut Changes, operation: Option<OperationId>) {
        for (number, index) in records(data) {
            *heard.entry((number, index)).or_default() += 1;
            if let (0, Some(sent), Some(operation)) = (index, self.around.population.sent_at(number), operation) {
                self.worker.sent_now(operation);
                self.worker.done(operation, sent.elapsed());
            }
        }
    }

    /// Opens a connection to a random target, retrying; none when it is told to stop.
    async fn open<T, F>(&mut self, open: impl Fn(Endpoint, String, Arc<User>) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut pause = PAUSES.0;
        let meant = Instant::now();
        loop {
            let order = *self.orders.borrow();
            if order.until.is_some_and(|until| until <= Instant::now()) {
                return None;
            }
            let endpoint = self.around.endpoints[self.rng.random_range(0..self.around.endpoints.len())].clone();
            let permit = self.around.opening.acquire().await.ok()?;
            self.worker.sent_now(self.connect);
            let opened = tokio::time::timeout(OPENING, open(endpoint, self.name.clone(), self.user.clone())).await;
            drop(permit);
            let failure = match opened {
                Ok(Ok(opened)) => {
                    self.worker.done(self.connect, meant.elapsed());
                    return Some(opened);
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Timeout(OPENING),
            };
            self.worker.failed(self.connect, failure.kind());
            let asked = match failure {
                Failure::Status { retry_after: Some(asked), .. } => asked,
                _ => Duration::ZERO,
            };
            let wait = asked.max(pause.mul_f64(self.rng.random_range(0.5..1.5)));
            // Any order cuts the pause short.
            let _ = next(&mut self.orders, order, tokio::time::sleep(wait)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// Waits for a future, unless an order that differs from the current one comes first.
async fn next<T>(orders: &mut watch::Receiver<Order>, order: Order, coming: impl Future<Output = T>) -> Next<T> {
    let late = async {
        match order.until {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        came = coming => Next::Came(came),
        changed = orders.wait_for(|new| *new != order) => match changed {
            Ok(new) if new.generation != order.generation => Next::Drop,
            Ok(_) => Next::Settle,
            // The run itself is gone.
            Err(_) => Next::Late,
        },
        () = late => Next::Late,
    }
}

/// Returns the latest acknowledged push if it was sent after the last wake-up.
pub fn missed_wakeup(user: &User, last_wakeup: Option<Instant>) -> Option<Instant> {
    user.ledger().latest_acknowledged.filter(|&sent| last_wakeup.is_none_or(|woken| woken < sent))
}

/// Returns acknowledged changes that were not received.
pub fn missed_changes<'a>(ledger: &'a Ledger, heard: &'a Changes) -> impl Iterator<Item = (u64, usize)> + 'a {
    let all = ledger.acknowledged.iter().flat_map(|(&number, &changes)| (0..changes).map(move |index| (number, index)));
    all.filter(|change| !heard.contains_key(change))
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    changes: Vec<Changed<'a>>,
}

#[derive(Deserialize)]
struct Changed<'a> {
    id: &'a str,
}

/// Returns push and index of every record of ours in an event.
fn records(data: &str) -> Vec<(u64, usize)> {
    let event: Option<Event<'_>> = serde_json::from_str(data).ok();
    let ids = event.iter().flat_map(|event| &event.changes);
    ids.filter_map(|change| parse_record(change.id)).collect()
}

/// Parses push and index from a record id as [`crate::engine::push_body`] writes it.
pub fn parse_record(id: &str) -> Option<(u64, usize)> {
    let (rest, number) = id.rsplit_once('/')?;
    let (_, index) = rest.rsplit_once('/')?;
    Some((number.parse().ok()?, index.parse().ok()?))
}
