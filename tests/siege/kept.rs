//! Connections keep little of what was sent on them, and what they keep is counted.

use crate::replica::{LimitedReplica, many};
use crate::support::live::{CLOSE, Raw, TEXT};
use crate::support::{TIMEOUT, User};
use futures_util::stream::{self, StreamExt};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::AsyncReadExt;

/// What operators plan for a connection, and half as much again for the allocator (docs/operations.md).
const PLANNED: u64 = 17 << 10;
/// Extra bytes that a debug build may use.
const NOISE: u64 = 8 << 20;
/// Length of what is sent, and of what is not finished.
const LONG: usize = 192 << 10;
const UNFINISHED: usize = 60_000;
/// Lengths that fill two thirds of 64 and of 32 KiB.
const LARGE: usize = 43_000;
const SMALL: usize = 21_000;
/// Streams of one user, fewer than it may have.
const STREAMS_OF_A_USER: usize = 100;

/// A push without a token.
fn refused_body() -> Vec<u8> {
    let head = format!("POST /sync/todo HTTP/1.1\r\nHost: x\r\nContent-Length: {LONG}\r\n\r\n");
    [head.into_bytes(), vec![b' '; LONG]].concat()
}

fn head() -> Vec<u8> {
    head_of(UNFINISHED)
}

fn head_of(length: usize) -> Vec<u8> {
    format!("GET /sync/todo/pull HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(length)).into_bytes()
}

/// Sends requests, and reads the answer to the first one.
async fn ask(replica: &LimitedReplica, requests: &[u8]) -> Option<Raw> {
    let mut raw = Raw::connect(replica.url()).await;
    raw.write(requests).await;
    // A 503 if there is no memory for it.
    raw.head().await.starts_with("HTTP/1.1 401 ").then_some(raw)
}

/// Heads of this length, right behind one another.
fn heads(count: usize, length: usize) -> Vec<u8> {
    [head_of(length), b"\r\n\r\n".to_vec()].concat().repeat(count)
}

/// Sends requests that are refused, and reads the answers to all of them, or as many as there are.
async fn ask_all(replica: &LimitedReplica, requests: &[u8], count: usize) -> Option<Raw> {
    let mut raw = Raw::connect(replica.url()).await;
    // The replica may have ended the connection before all of it was sent.
    let _ = raw.try_write(requests).await;
    let mut answers = Vec::new();
    while String::from_utf8_lossy(&answers).matches("HTTP/1.1 401 ").count() < count {
        let reading = tokio::time::timeout(TIMEOUT, raw.tcp.read_buf(&mut answers)).await;
        if reading.expect("the replica answers").unwrap_or(0) == 0 {
            break;
        }
    }
    answers.starts_with(b"HTTP/1.1 401 ").then_some(raw)
}

/// A stream whose head has this length.
async fn open_stream(replica: &LimitedReplica, user: &User, length: usize) -> Option<Raw> {
    let mut raw = Raw::connect(replica.url()).await;
    let (token, long) = (&user.token, "x".repeat(length));
    let head =
        format!("GET /sync/todo/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nX-Long: {long}\r\n\r\n");
    raw.write(head.as_bytes()).await;
    raw.head().await.starts_with("HTTP/1.1 200 ").then_some(raw)
}

/// A socket that is closed for its token, in the middle of another message.
async fn closed(replica: &LimitedReplica) -> Option<Raw> {
    let mut raw = Raw::websocket(replica.url(), "/ws", 4 << 10).await;
    raw.send(TEXT, br#"{"type":"auth","token":"x.y.z"}"#).await;
    while raw.frame().await?.0 != CLOSE {}
    let length = UNFINISHED as u64 + 1;
    raw.write(&[&[TEXT, 0x80 | 127][..], &length.to_be_bytes(), &[0; 4], &vec![b'x'; UNFINISHED]].concat()).await;
    Some(raw)
}

/// Opens connections; what they make the replica hold must be counted, but for what is planned for each.
async fn check(replica: &LimitedReplica, what: &str, open: impl AsyncFn() -> Option<Raw>) {
    let count = many(5_000, 1_000);
    let (before, _) = replica.resident();
    let open = &open;
    let opened = stream::iter(0..count).map(|_| open()).buffer_unordered(50);
    let connections: Vec<Raw> = opened.filter_map(|raw| async { raw }).collect().await;
    let mut counted = 0;
    for metric in ["mana_sync_unauthenticated_bytes", "mana_sync_stream_bytes"] {
        counted += replica.metric(metric).await as u64;
    }
    let (now, _) = replica.resident();
    let kept = now.saturating_sub(before);
    println!("{} {what}: {} KiB, {} KiB counted", connections.len(), kept >> 10, counted >> 10);
    // A buffer that has grown leaves smaller ones behind.
    let allowed = 2 * counted + connections.len() as u64 * PLANNED + NOISE;
    assert!(kept <= allowed, "{what}: {kept} bytes are kept, {allowed} allowed");
    assert!(!connections.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_keep_no_more_than_is_planned_or_counted() {
    let complete = |length| [head_of(length), b"\r\n\r\n".to_vec()].concat();
    let (body, long) = (refused_body(), complete(UNFINISHED));
    // HTTP's buffer doubles until a head fits, and what it keeps depends on how much of it is left then.
    let (large, small) = (complete(LARGE), complete(SMALL));
    let followed = [refused_body(), head()].concat();
    for (what, requests) in [
        ("refused bodies", &body),
        ("... and unfinished heads", &followed),
        ("long heads", &long),
        ("heads that fill two thirds of a buffer", &large),
        ("heads that fill two thirds of a smaller one", &small),
    ] {
        let replica = LimitedReplica::start(&[]).await;
        check(&replica, what, async || ask(&replica, requests).await).await;
    }
    // A buffer grows for what is left of the request before, too.
    for (what, count, length) in [
        ("three heads of 3.4 KB", 3, 3_400),
        ("16 of them", 16, 3_400),
        ("nine of 7 KB", 9, 7_000),
        ("five of 12 KB", 5, 12_000),
    ] {
        let (replica, requests) = (LimitedReplica::start(&[]).await, heads(count, length));
        check(&replica, what, async || ask_all(&replica, &requests, count).await).await;
    }
    let replica = LimitedReplica::start(&[]).await;
    let users: Vec<_> = (0..many(5_000, 1_000) / STREAMS_OF_A_USER).map(|_| replica.cluster.user()).collect();
    let opened = AtomicUsize::new(0);
    let open = async || {
        let user = &users[opened.fetch_add(1, Ordering::Relaxed) % users.len()];
        open_stream(&replica, user, LARGE).await
    };
    check(&replica, "streams with such heads", open).await;
    let replica = LimitedReplica::start(&[]).await;
    check(&replica, "closed sockets", async || closed(&replica).await).await;
}
