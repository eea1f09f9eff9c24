//! A minimal in-memory server of the protocol over real HTTP: one user, one app, no fan-out. It can fail on request,
//! before or after storing, and break the rules whose violation must be noticed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use mana_load::protocol::{Adjusted, Change, Op, PushRequest, SyncAnswer, is_beginning};
use mana_load::stamp;
use serde_json::Value;
use tokio::sync::watch;

/// Update stamps later than this are stored as this, as if it were the server's time plus the allowed skew.
pub const LATEST: &str = "2100-01-01T00:00:00.000Z";

/// The server's fault.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Fault {
    #[default]
    None,
    /// Every third request is answered 503, every second one of those after its changes were stored.
    Flaky,
    /// A retried push is stored once more.
    StoresTwice,
    /// A device is sent values that lost a tie against its own.
    SendsLostTies,
    /// Every tenth change is never sent to anyone.
    Forgets,
    /// A device gets back what it sent.
    SendsOwn,
}

struct Stored {
    client_id: String,
    change: Change,
}

#[derive(Default)]
pub struct Server {
    fault: Fault,
    page: usize,
    state: Mutex<State_>,
    news: watch::Sender<usize>,
}

#[derive(Default)]
struct State_ {
    log: Vec<Stored>,
    answered: HashMap<String, usize>,
    requests: u64,
}

impl Server {
    /// Serves on a free loopback port; returns the base URL.
    pub async fn start(fault: Fault, page: usize) -> (Arc<Self>, String) {
        let server = Arc::new(Self { fault, page, ..Self::default() });
        let routes = Router::new()
            .route("/sync/{app}", post(push))
            .route("/sync/{app}/pull", get(pull))
            .route("/sync/{app}/stream", get(stream))
            .with_state(server.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        (server, base)
    }

    /// The number of stored changes.
    pub fn stored(&self) -> usize {
        self.state().log.len()
    }

    fn state(&self) -> MutexGuard<'_, State_> {
        self.state.lock().unwrap()
    }

    /// Returns whether this request fails, and whether it fails before it is handled.
    fn fails(&self) -> Option<bool> {
        let mut state = self.state();
        state.requests += 1;
        let fails = self.fault == Fault::Flaky && state.requests.is_multiple_of(3);
        fails.then_some(state.requests.is_multiple_of(2))
    }

    /// Stores a push unless it was stored before; returns the number of changes stored before it.
    fn store(&self, key: &str, request: &PushRequest) -> usize {
        let mut state = self.state();
        let before = state.log.len();
        if let Some(&first) = state.answered.get(key)
            && self.fault != Fault::StoresTwice
        {
            return first;
        }
        for change in &request.changes {
            let mut change = change.clone().with_canonical_stamps();
            for write in change.writes().iter().filter(|write| *write.stamp > *LATEST) {
                change.adjust(&write.field, LATEST);
            }
            state.log.push(Stored { client_id: request.client_id.clone(), change });
        }
        state.answered.insert(key.to_owned(), before);
        self.news.send_replace(state.log.len());
        before
    }

    /// In an initial sync, includes own changes that were stored before `own_until`.
    fn delta(&self, reader: &str, since: &str, table: Option<&str>, own_until: usize) -> SyncAnswer {
        let state = self.state();
        let initial_sync = is_beginning(since) || since.ends_with("1Z");
        let from = position(since);
        let mut found = Vec::new();
        let (mut last, mut has_more) = (from, false);
        for (place, stored) in state.log.iter().enumerate().skip(from) {
            let own =
                stored.client_id == reader && !(initial_sync && place < own_until) && self.fault != Fault::SendsOwn;
            let forgotten = self.fault == Fault::Forgets && place % 10 == 9;
            if own || forgotten || table.is_some_and(|table| stored.change.table != table) {
                continue;
            }
            if found.len() == self.page {
                has_more = true;
                break;
            }
            last = place + 1;
            found.extend(self.without_lost_ties(&state.log[place..], reader));
        }
        let until = if has_more { last } else { state.log.len() };
        let synced_until = cursor(until, initial_sync && has_more);
        SyncAnswer { server_changes: found, conflicts: Vec::new(), synced_until, has_more, adjusted: Vec::new() }
    }

    /// The first change of `log` without the fields for which the reader's own later change won a tie.
    fn without_lost_ties(&self, log: &[Stored], reader: &str) -> Option<Change> {
        let (first, later) = log.split_first()?;
        let mut change = first.change.clone();
        if self.fault == Fault::SendsLostTies || first.client_id == reader {
            return Some(change);
        }
        let own = later.iter().filter(|stored| stored.client_id == reader);
        let own = own.filter(|stored| (&stored.change.table, &stored.change.id) == (&change.table, &change.id));
        let own: Vec<_> = own.flat_map(|stored| stored.change.writes()).collect();
        if let Op::Update { fields } = &mut change.op {
            fields.retain(|field, write| !own.iter().any(|own| own.field == *field && own.stamp == write.updated_at));
            return (!fields.is_empty()).then_some(change);
        }
        Some(change)
    }
}

/// The microseconds are the position in the log; the last digit marks an initial sync.
fn cursor(place: usize, initial_sync: bool) -> String {
    let seconds = stamp::from_millis(1_704_103_200_000 + (place as i64 / 1_000_000) * 1_000).unwrap();
    format!("{}.{:06}{}Z", &seconds[..19], place % 1_000_000, u8::from(initial_sync))
}

fn position(cursor: &str) -> usize {
    if is_beginning(cursor) { 0 } else { cursor[20..26].parse().unwrap() }
}

fn answer(answer: &SyncAnswer) -> Response {
    serde_json::to_string(answer).unwrap().into_response()
}

fn adjusted(changes: &[Change]) -> Vec<Adjusted> {
    let of_change = |(index, change): (usize, &Change)| {
        let late = change.writes().into_iter().filter(|write| *write.stamp > *LATEST);
        let entry = |field| Adjusted {
            index,
            table: change.table.clone(),
            id: change.id.clone(),
            fields: vec![field],
            updated_at: LATEST.to_owned(),
        };
        late.map(|write| entry(write.field)).collect::<Vec<_>>()
    };
    changes.iter().enumerate().flat_map(of_change).collect()
}

fn unavailable() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [("Retry-After", "0")], "{}").into_response()
}

async fn push(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    let fails = server.fails();
    if fails == Some(true) {
        return unavailable();
    }
    let request: PushRequest = serde_json::from_slice(&body).unwrap();
    let key = String::from_utf8_lossy(&body).into_owned();
    let own_until = if request.changes.is_empty() { usize::MAX } else { server.store(&key, &request) };
    if fails == Some(false) {
        return unavailable();
    }
    let delta = server.delta(&request.client_id, &request.since, None, own_until);
    answer(&SyncAnswer { adjusted: adjusted(&request.changes), ..delta })
}

async fn pull(
    State(server): State<Arc<Server>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if server.fails().is_some() {
        return unavailable();
    }
    let reader = headers["X-Client-Id"].to_str().unwrap();
    answer(&server.delta(reader, &query["since"], Some(&query["collection"]), usize::MAX))
}

async fn stream(
    State(server): State<Arc<Server>>,
    Path(_): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let since = headers.get("Last-Event-ID").map(|id| id.to_str().unwrap().to_owned()).unwrap_or_default();
    let reader = headers["X-Client-Id"].to_str().unwrap().to_owned();
    let (news, table) = (server.news.subscribe(), query["collections"].clone());
    let events = futures_util::stream::unfold((server, since, news, 0), move |(server, since, mut news, sent)| {
        let (reader, table) = (reader.clone(), table.clone());
        async move {
            // A flaky server ends the stream now and then.
            if server.fault == Fault::Flaky && sent == 5 {
                return None;
            }
            loop {
                news.borrow_and_update();
                let delta = server.delta(&reader, &since, Some(&table), usize::MAX);
                if delta.server_changes.is_empty() {
                    news.changed().await.ok()?;
                    continue;
                }
                let mut data = serde_json::to_value(&delta).unwrap();
                data["table"] = Value::String(table.clone());
                data["changes"] = data["serverChanges"].take();
                let until = delta.synced_until;
                let event = format!("id: {until}\nevent: changes\ndata: {data}\n\n");
                return Some((Ok::<_, std::convert::Infallible>(event), (server, until, news, sent + 1)));
            }
        }
    });
    axum::body::Body::from_stream(events).into_response()
}
