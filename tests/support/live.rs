//! Clients for the live part of the protocol: streams as sent, and sockets down to the bytes.

use crate::support::{Cluster, TIMEOUT, User, insert};
use mana_load::stream::{RawEvent, SseParser};
use mana_load::wakeups::{WakeMessage, Wakeups};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// The app of tests that need only one.
pub const APP: &str = "todo";
/// Later than every cursor: a push from here gets no delta.
pub const NO_DELTA: &str = "2100-01-01T00:00:00.000Z";

/// An event of type `changes`.
#[derive(Clone, Debug)]
pub struct Delta {
    /// Only the last event of a page has one.
    pub id: Option<String>,
    pub data: Value,
}

impl Delta {
    pub fn table(&self) -> &str {
        self.data["table"].as_str().unwrap()
    }

    /// Its changes as they were pushed; see [`changes`](crate::support::changes).
    pub fn changes(&self) -> Value {
        crate::support::changes(&json!({ "serverChanges": self.data["changes"] }))
    }

    pub fn until(&self) -> &str {
        self.data["syncedUntil"].as_str().unwrap()
    }

    pub fn has_more(&self) -> bool {
        self.data["hasMore"].as_bool().unwrap()
    }

    /// The ids of its changes, in order.
    pub fn ids(&self) -> Vec<String> {
        let changes = self.data["changes"].as_array().unwrap().iter();
        changes.map(|change| change["id"].as_str().unwrap().to_owned()).collect()
    }
}

/// An open stream.
#[derive(Debug)]
pub struct Events {
    response: reqwest::Response,
    parser: SseParser,
    ready: VecDeque<RawEvent>,
    /// Everything read so far.
    pub text: String,
}

impl Events {
    /// Opens a stream, which must succeed.
    pub async fn open(request: reqwest::RequestBuilder) -> Events {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Events { response, parser: SseParser::default(), ready: VecDeque::new(), text: String::new() }
    }

    pub fn headers(&self) -> &reqwest::header::HeaderMap {
        self.response.headers()
    }

    /// Returns the next event of any type; none once the server has ended the stream properly.
    pub async fn next(&mut self) -> Option<RawEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let chunk = timeout(TIMEOUT, self.response.chunk()).await.expect("an event was due");
            let bytes = chunk.expect("a stream must not break off")?;
            self.text.push_str(std::str::from_utf8(&bytes).expect("events are whole"));
            self.ready.extend(self.parser.feed(&bytes));
        }
    }

    /// Returns the next `changes` event, even if it has no changes; heartbeats are skipped.
    pub async fn delta(&mut self) -> Delta {
        loop {
            let event = self.next().await.expect("the stream must go on");
            if event.event == "changes" {
                return Delta { id: event.id, data: serde_json::from_str(&event.data).unwrap() };
            }
        }
    }

    /// Reads to the end of the page that contains the record `id`; returns the ids of all records on the way, in order.
    pub async fn until(&mut self, id: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let delta = self.delta().await;
            seen.extend(delta.ids());
            if delta.id.is_some() && seen.iter().any(|seen| seen == id) {
                return seen;
            }
        }
    }

    /// Reads the next page: its events, up to the one that has an id.
    pub async fn page(&mut self) -> Vec<Delta> {
        let mut page = vec![self.delta().await];
        while page.last().is_some_and(|event| event.id.is_none()) {
            page.push(self.delta().await);
        }
        page
    }

    /// Reads the backlog: every event up to the first one with `hasMore` false.
    pub async fn backlog(&mut self) -> Vec<Delta> {
        let mut events = vec![self.delta().await];
        while events.last().is_some_and(Delta::has_more) {
            events.push(self.delta().await);
        }
        events
    }
}

/// Returns the ids of all records in some events.
pub fn all_ids(events: &[Delta]) -> Vec<String> {
    events.iter().flat_map(Delta::ids).collect()
}

/// Splits events into pages.
pub fn pages(events: &[Delta]) -> impl Iterator<Item = &[Delta]> {
    events.split_inclusive(|event| event.id.is_some())
}

/// Returns the ids of all records in some events, sorted within each page: records stored in the order of their ids
/// come out in log order.
pub fn ids_by_page(events: &[Delta]) -> Vec<String> {
    let sorted = |page: &[Delta]| {
        let mut ids = all_ids(page);
        ids.sort();
        ids
    };
    pages(events).flat_map(sorted).collect()
}

/// A request for a stream of [`APP`]. `query` is the query string.
pub fn stream_of(cluster: &Cluster, index: usize, user: &User, query: &str) -> reqwest::RequestBuilder {
    cluster.request_to(index, user, Method::GET, &format!("/sync/{APP}/stream?{query}"))
}

/// Stores an insert for each (table, id) in one push of `device` to [`APP`]; returns the cursor after it.
pub async fn store(cluster: &Cluster, index: usize, user: &User, device: &str, records: &[(&str, &str)]) -> String {
    store_in(cluster, index, user, APP, device, records).await
}

/// The same in any app.
pub async fn store_in(
    cluster: &Cluster,
    index: usize,
    user: &User,
    app: &str,
    device: &str,
    records: &[(&str, &str)],
) -> String {
    let changes: Vec<Value> =
        records.iter().map(|(table, id)| insert(table, id, "T", "2024-01-01T10:00:00.000Z")).collect();
    let body = json!({ "clientId": device, "since": NO_DELTA, "changes": changes });
    let (status, answer) = cluster.push_to(index, user, app, body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["syncedUntil"].as_str().unwrap().to_owned()
}

/// Fills a log through all replicas, with one record for each one-letter table, two of three pushes from `laptop`,
/// every third from `phone`. Returns the records in order, with their device and the cursor after each.
pub async fn fill(cluster: &Cluster, user: &User, tables: &str) -> Vec<(String, &'static str, String)> {
    let mut log = Vec::new();
    for (n, table) in tables.chars().enumerate() {
        let device = if n % 3 == 2 { "phone" } else { "laptop" };
        let id = format!("{n:03}");
        let cursor = store(cluster, n, user, device, &[(&table.to_string(), &id)]).await;
        log.push((id, device, cursor));
    }
    log
}

/// Moves a user's log back in time, as if everything in it had been stored that much earlier.
pub async fn age(cluster: &Cluster, user: &User, app: &str, seconds: f64) {
    for (table, column) in [("sync_changes", "created_at"), ("sync_heads", "head")] {
        let sql = format!(
            "update {table} set {column} = {column} - make_interval(secs => $3) where user_id = $1 and app_id = $2"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(&user.id).bind(app).bind(seconds);
        query.execute(&cluster.pool).await.unwrap();
    }
}

/// Returns the user with a token that expires after the current second and `more` whole ones.
pub fn short_lived(cluster: &Cluster, user: &User, more: u64) -> User {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token = cluster.key.mint(&json!({ "sub": user.id, "iat": now, "exp": now + 1 + more }));
    User { id: user.id.clone(), token }
}

/// Opens an authenticated WebSocket on replica `index`.
pub async fn socket(cluster: &Cluster, index: usize, user: &User, app: Option<&str>, device: Option<&str>) -> Wakeups {
    Wakeups::connect(cluster.url(index), app, &user.token, device).await.unwrap()
}

/// Reads the next message, which must be a wake-up; returns its app, and its tables in order.
pub async fn woken(socket: &mut Wakeups) -> (String, Vec<String>) {
    match socket.next(TIMEOUT).await.unwrap() {
        WakeMessage::SyncAvailable { app_id, mut tables } => {
            tables.sort();
            (app_id, tables)
        }
        other => panic!("a wake-up was due, got {other:?}"),
    }
}

/// Reads wake-ups up to the one for `table`; returns all tables on the way.
pub async fn woken_until(socket: &mut Wakeups, table: &str) -> Vec<String> {
    let mut tables: Vec<String> = Vec::new();
    while !tables.iter().any(|woken| woken == table) {
        tables.extend(woken(socket).await.1);
    }
    tables
}

/// Reads the next message, which must be the close; returns its code.
pub async fn closed(socket: &mut Wakeups) -> Option<u16> {
    match socket.next(TIMEOUT).await.unwrap() {
        WakeMessage::Closed { code, .. } => code,
        other => panic!("a close was due, got {other:?}"),
    }
}

/// Reads a metric of one replica; 0 if it does not exist.
pub async fn metric(cluster: &Cluster, index: usize, name: &str) -> f64 {
    let response = cluster.http.get(format!("{}/metrics", cluster.url(index))).timeout(TIMEOUT).send().await.unwrap();
    let text = response.text().await.unwrap();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(value).unwrap_or(0.0)
}

/// A connection on which the test writes and reads raw bytes.
#[derive(Debug)]
pub struct Raw {
    pub tcp: TcpStream,
    unread: Vec<u8>,
}

/// First bytes of WebSocket frames: FIN, and the opcode.
pub const TEXT: u8 = 0x81;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;

impl Raw {
    pub async fn connect(base: &str) -> Raw {
        Raw::connect_narrow(base, 1 << 20).await
    }

    /// Connects with a receive buffer of about this many bytes.
    pub async fn connect_narrow(base: &str, buffer: u32) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(buffer).unwrap();
        let address = base.strip_prefix("http://").unwrap().parse().unwrap();
        Raw { tcp: socket.connect(address).await.unwrap(), unread: Vec::new() }
    }

    /// Its own port.
    pub fn local_port(&self) -> u16 {
        self.tcp.local_addr().unwrap().port()
    }

    /// Opens a WebSocket and sends nothing on it.
    pub async fn websocket(base: &str, path: &str, buffer: u32) -> Raw {
        let mut raw = Raw::connect_narrow(base, buffer).await;
        let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n");
        raw.write(head.as_bytes()).await;
        let answer = raw.head().await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        raw
    }

    /// The same, authenticated.
    pub async fn member(base: &str, path: &str, user: &User, buffer: u32) -> Raw {
        let mut raw = Raw::websocket(base, path, buffer).await;
        raw.send(TEXT, json!({ "type": "auth", "token": user.token }).to_string().as_bytes()).await;
        assert_eq!(raw.frame().await, Some((TEXT, br#"{"type":"auth-ok"}"#.to_vec())));
        raw
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        timeout(TIMEOUT, self.tcp.write_all(bytes)).await.expect("the server must read").unwrap();
    }

    /// Writes to a server that may no longer read, or may have gone.
    pub async fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        timeout(TIMEOUT, self.tcp.write_all(bytes)).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }

    /// Sends a masked frame. The mask is zero, so the payload is sent unchanged.
    pub async fn send(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match payload.len() {
            small @ ..=125 => frame.push(0x80 | small as u8),
            medium @ ..=65_535 => {
                frame.push(0x80 | 126);
                frame.extend((medium as u16).to_be_bytes());
            }
            large => {
                frame.push(0x80 | 127);
                frame.extend((large as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.write(&frame).await;
    }

    /// Reads up to the empty line after a head.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            assert!(self.read().await, "the connection ended in a head: {:?}", self.unread);
        }
    }

    /// Reads until the server ends the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.read().await {}
        std::mem::take(&mut self.unread)
    }

    /// Reads until the server closes the WebSocket. The server then waits briefly for a reply, for which the test need
    /// not wait.
    pub async fn until_closed(&mut self) {
        while self.frame().await.expect("it is closed by a frame").0 != CLOSE {}
    }

    /// Reads the next frame: its first byte and its payload. None once the connection has ended.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (head, length) = loop {
            let length = |range: std::ops::Range<usize>| {
                let bytes = self.unread.get(range)?;
                Some(bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
            };
            let known = match self.unread.get(1) {
                Some(126) => length(2..4).map(|length| (4, length)),
                Some(127) => length(2..10).map(|length| (10, length)),
                Some(small) => Some((2, usize::from(*small))),
                None => None,
            };
            match known {
                Some(known) => break known,
                None if self.read().await => {}
                None => return None,
            }
        };
        while self.unread.len() < head + length {
            if !self.read().await {
                return None;
            }
        }
        let frame: Vec<u8> = self.unread.drain(..head + length).collect();
        Some((frame[0], frame[head..].to_vec()))
    }

    /// Reads some more; false at the end, even by a reset.
    async fn read(&mut self) -> bool {
        self.unread.reserve(64 << 10);
        let reading = self.tcp.read_buf(&mut self.unread);
        let read = timeout(TIMEOUT, reading).await.expect("the server must send, or end").unwrap_or(0);
        read > 0
    }
}

/// Returns the code in a close frame's payload.
pub fn close_code(payload: &[u8]) -> Option<u16> {
    payload.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// Returns the time until `at`, a whole second since 1970.
pub fn time_until(at: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Duration::from_secs(at).saturating_sub(now)
}
