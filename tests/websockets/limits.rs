//! Limits of WebSockets, and what happens beyond them: handshakes, sizes, times, slow readers (G6).

use crate::support::live::*;
use crate::support::*;
use mana_load::wakeups::WakeMessage;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

const WIDE: u32 = 1 << 20;
const AUTH_TIMEOUT: Duration = Duration::from_millis(300);
const LIMIT: usize = 64 << 10;

/// A replica with short timeouts, though longer than a busy machine keeps a client from answering a ping.
async fn impatient() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    let settings = [("WRITE_TIMEOUT_MS", "4000"), ("WS_PING_MS", "2000")];
    SHARED.get_or_init(|| Cluster::start_with(1, &settings)).await
}

/// Replicas that wait for slow readers, however slow the machine is.
async fn patient() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| Cluster::start_with(2, &[("WRITE_TIMEOUT_MS", "600000")])).await
}

/// Sends a head; returns the status, and the body if there is one.
async fn handshake(base: &str, head: &str) -> (u16, String) {
    let mut raw = Raw::connect(base).await;
    raw.write(head.as_bytes()).await;
    let answer = raw.head().await;
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, if status == 101 { answer } else { String::from_utf8(raw.rest().await).unwrap() })
}

/// Reads up to the close frame; returns its code, or `None` if the connection ended without one.
async fn close_of(raw: &mut Raw) -> Option<u16> {
    loop {
        match raw.frame().await? {
            (CLOSE, payload) => return close_code(&payload),
            _ => continue,
        }
    }
}

const KEY: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn handshakes_of_all_browsers_and_proxies_are_accepted() {
    let cluster = shared().await;
    for (path, upgrade) in [
        ("/ws", "Connection: Upgrade\r\nUpgrade: websocket"),
        ("/ws/todo", "Connection: keep-alive, Upgrade\r\nUpgrade: websocket"),
        ("/ws/my%20notes", "connection: upgrade\r\nupgrade: WebSocket"),
        ("/ws?x=1", "CONNECTION: keep-alive\r\nConnection: ,upgrade,\r\nUpgrade: h2c, websocket"),
        (
            "/ws",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        ),
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n{KEY}\r\n");
        let (status, answer) = handshake(cluster.url(0), &head).await;
        assert_eq!(status, 101, "{head}");
        let answer = answer.to_ascii_lowercase();
        for line in ["upgrade: websocket", "connection: upgrade", "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="]
        {
            assert!(answer.contains(&format!("\r\n{line}\r\n")), "{answer}");
        }
        assert!(!answer.contains("extensions"), "none is offered: {answer}");
    }
}

#[tokio::test]
async fn what_is_no_websocket_request_is_answered_426() {
    let cluster = shared().await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for headers in [
        String::new(),
        format!("Connection: keep-alive\r\nUpgrade: websocket\r\n{KEY}"),
        format!("Connection: Upgrade\r\n{KEY}"),
        format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{KEY}"),
        format!("{upgrade}Sec-WebSocket-Version: 13\r\n"),
        format!("{upgrade}Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
    ] {
        let head = format!("GET /ws/todo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        let (status, body) = handshake(cluster.url(0), &head).await;
        assert_eq!(status, 426, "{head}");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["error"], "upgrade_required");
        assert!(body["message"].as_str().unwrap().contains("WebSocket"));
    }
}

#[tokio::test]
async fn what_a_client_sends_right_behind_its_handshake_is_read() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut raw = Raw::connect(cluster.url(0)).await;
    let auth = serde_json::json!({ "type": "auth", "token": user.token }).to_string();
    let mut bytes =
        format!("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{KEY}\r\n").into_bytes();
    bytes.extend([TEXT, 0x80 | 126, (auth.len() >> 8) as u8, auth.len() as u8, 0, 0, 0, 0]);
    bytes.extend(auth.as_bytes());
    raw.write(&bytes).await;
    raw.head().await;
    assert_eq!(raw.frame().await, Some((TEXT, br#"{"type":"auth-ok"}"#.to_vec())));
}

#[tokio::test]
async fn a_socket_that_does_not_authenticate_in_time_is_closed_with_1008() {
    let cluster = &Cluster::start_with(1, &[("WS_AUTH_TIMEOUT_MS", "300")]).await;
    let started = Instant::now();
    let mut silent = Raw::websocket(cluster.url(0), "/ws", WIDE).await;
    let mut chatty = Raw::websocket(cluster.url(0), "/ws/todo", WIDE).await;
    chatty.send(TEXT, br#"{"type":"ping"}"#).await;
    chatty.send(TEXT, br#"{"type":"hello"}"#).await;
    for raw in [&mut silent, &mut chatty] {
        assert_eq!(close_of(raw).await, Some(1008));
        assert!(started.elapsed() >= AUTH_TIMEOUT);
    }
}

#[tokio::test]
async fn a_message_over_64_kib_closes_with_1009_which_the_client_gets_to_read() {
    let (cluster, user) = (shared().await, shared().await.user());
    for size in [LIMIT + 1, 70_000, 1 << 20, 8 << 20] {
        let mut raw = Raw::member(cluster.url(0), "/ws", &user, WIDE).await;
        raw.send(TEXT, &vec![b'x'; size]).await;
        assert_eq!(close_of(&mut raw).await, Some(1009), "{size} bytes");
    }
    let mut unauthenticated = Raw::websocket(cluster.url(0), "/ws", WIDE).await;
    unauthenticated.send(0x82, &vec![0; 70_000]).await;
    assert_eq!(close_of(&mut unauthenticated).await, Some(1009), "before authentication and binary too");
}

#[tokio::test]
async fn a_message_in_fragments_counts_as_one() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut raw = Raw::member(cluster.url(0), "/ws", &user, WIDE).await;
    raw.send(0x01, br#"{"type":"#).await;
    raw.send(0x00, b"").await;
    raw.send(0x80, br#""ping"}"#).await;
    assert_eq!(raw.frame().await, Some((TEXT, br#"{"type":"pong"}"#.to_vec())));
    raw.send(0x01, &[b'x'; 30_000]).await;
    raw.send(0x00, &[b'x'; 30_000]).await;
    raw.send(0x00, &[b'x'; 30_000]).await;
    assert_eq!(close_of(&mut raw).await, Some(1009));
}

#[tokio::test]
async fn a_message_of_64_kib_is_not_too_large() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut raw = Raw::member(cluster.url(0), "/ws", &user, WIDE).await;
    let mut padded = br#"{"type":"ping"}"#.to_vec();
    padded.resize(LIMIT, b' ');
    raw.send(TEXT, &padded).await;
    assert_eq!(raw.frame().await, Some((TEXT, br#"{"type":"pong"}"#.to_vec())));
    raw.send(0x01, &padded[..LIMIT / 2]).await;
    raw.send(0x80, &padded[LIMIT / 2..]).await;
    assert_eq!(raw.frame().await, Some((TEXT, br#"{"type":"pong"}"#.to_vec())));
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_the_socket_and_nothing_else() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut good = Raw::member(cluster.url(0), "/ws", &user, WIDE).await;
    for bytes in [&b"\x81\x05hello"[..], b"\xf1\x80\0\0\0\0", b"\x83\x80\0\0\0\0", b"\x81\x82\0\0\0\0\xff\xfe"] {
        let mut raw = Raw::member(cluster.url(0), "/ws", &user, WIDE).await;
        raw.write(bytes).await;
        assert_eq!(close_of(&mut raw).await, Some(1002), "{bytes:?}");
    }
    store(cluster, 1, &user, "phone", &[("tasks", "a")]).await;
    assert_eq!(good.frame().await.unwrap().0, TEXT);
}

#[tokio::test]
async fn a_client_that_answers_pings_stays_and_one_that_never_does_is_closed() {
    let (cluster, user) = (impatient().await, impatient().await.user());
    let mut silent = Raw::member(cluster.url(0), "/ws", &user, WIDE).await;
    let mut alive = Raw::member(cluster.url(0), "/ws", &user, WIDE).await;
    let mut answered = 0;
    let keep_answering = async {
        while answered < 4 {
            let (first, payload) = alive.frame().await.expect("it stays open");
            assert_eq!(first, PING);
            alive.send(0x8a, &payload).await;
            answered += 1;
        }
    };
    let be_silent = async {
        assert_eq!(silent.frame().await.map(|(first, _)| first), Some(PING));
        while let Some((first, _)) = silent.frame().await {
            assert!(first == PING || first == CLOSE);
        }
    };
    tokio::join!(keep_answering, be_silent);
    store(cluster, 0, &user, "phone", &[("tasks", "a")]).await;
    while alive.frame().await.expect("it stays open").0 != TEXT {}
}

/// Tables whose names take much space in a wake-up, which escapes every byte of them.
fn bulky_tables() -> Vec<String> {
    (0..200).map(|n| format!("{}{n:03}", "\u{1}".repeat(250))).collect()
}

/// Stores a record in each of these tables, to cause a large wake-up.
async fn store_bulk(cluster: &Cluster, index: usize, user: &User, tables: &[String], id: &str) {
    let records: Vec<(&str, &str)> = tables.iter().map(|table| (table.as_str(), id)).collect();
    store(cluster, index, user, "phone", &records).await;
}

#[tokio::test]
async fn wake_ups_that_pile_up_behind_a_slow_reader_are_merged_and_none_is_dropped() {
    const PUSHES: usize = 60;
    let (cluster, user) = (patient().await, patient().await.user());
    let mut slow = Raw::member(cluster.url(0), "/ws", &user, 4096).await;
    let mut fast = socket(cluster, 0, &user, None, None).await;
    let bulky = bulky_tables();
    let mut expected: BTreeSet<String> = bulky.iter().cloned().collect();
    for n in 0..PUSHES {
        let extra = format!("extra {n}");
        let mut tables = bulky.clone();
        tables.push(extra.clone());
        store_bulk(cluster, n, &user, &tables, &extra).await;
        woken_until(&mut fast, &extra).await;
        expected.insert(extra);
    }
    // Wake-ups of 300 KB each: 18 MB, if they were kept. Now the slow client reads.
    let (mut messages, mut bytes, mut tables) = (0, 0, BTreeSet::new());
    while !expected.is_subset(&tables) {
        let (first, payload) = slow.frame().await.expect("the socket stays open");
        if first != TEXT {
            continue;
        }
        let message: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!((&message["type"], &message["appId"]), (&"sync-available".into(), &APP.into()));
        tables.extend(message["tables"].as_array().unwrap().iter().map(|table| table.as_str().unwrap().to_owned()));
        messages += 1;
        bytes += payload.len();
    }
    assert_eq!(tables, expected);
    assert!(messages < PUSHES / 2 && bytes < 9 << 20, "{messages} messages of {bytes} bytes");
}

#[tokio::test]
async fn a_reader_too_far_behind_is_told_to_start_over_rather_than_kept_for() {
    const TABLES: usize = 5_000;
    let (cluster, user) = (patient().await, patient().await.user());
    let mut slow = Raw::member(cluster.url(0), "/ws", &user, 4096).await;
    let mut fast = socket(cluster, 0, &user, None, None).await;
    let bulky = bulky_tables();
    for n in 0..20 {
        store_bulk(cluster, n, &user, &bulky, &format!("{n}")).await;
        woken(&mut fast).await;
    }
    for part in 0..3 {
        let tables: Vec<String> = (0..TABLES).map(|n| format!("table {part} {n}")).collect();
        store_bulk(cluster, part, &user, &tables, "a").await;
        woken_until(&mut fast, &tables[TABLES - 1]).await;
    }
    assert_eq!(close_of(&mut slow).await, Some(1013));
}

#[tokio::test]
async fn a_socket_that_does_not_read_is_ended_and_harms_no_other() {
    let (cluster, user) = (impatient().await, impatient().await.user());
    let mut dead = Raw::member(cluster.url(0), "/ws", &user, 4096).await;
    let bulky = bulky_tables();
    let before = metric(cluster, 0, r#"mana_sync_session_closes_total{reason="unresponsive"}"#).await;
    let mut fast = socket(cluster, 0, &user, None, None).await;
    for n in 0..25 {
        store_bulk(cluster, 0, &user, &bulky, &format!("{n}")).await;
        let started = Instant::now();
        woken(&mut fast).await;
        assert_soon(cluster, Duration::from_millis(1_500), "another is not held up", started.elapsed()).await;
    }
    let ended = async || metric(cluster, 0, r#"mana_sync_session_closes_total{reason="unresponsive"}"#).await > before;
    // Meanwhile, the socket that reads must keep answering its pings.
    let is_open = |message: &WakeMessage| !matches!(message, WakeMessage::Closed { .. });
    let answer_pings = async { while fast.next(TIMEOUT).await.as_ref().is_ok_and(is_open) {} };
    tokio::select! {
        () = eventually("the socket that does not read is ended", ended) => {}
        () = answer_pings => panic!("the socket that reads was ended"),
    }
    // Only what was already on its way is left.
    let mut read = 0;
    while let Some((_, payload)) = dead.frame().await {
        read += payload.len();
    }
    assert!(read < 9 << 20, "{read} bytes");
}

#[tokio::test]
async fn a_stream_that_does_not_read_is_ended_too() {
    let (cluster, user) = (impatient().await, impatient().await.user());
    let at = "2024-01-01T10:00:00.000Z";
    for push in 0..2 {
        let changes: Vec<_> =
            (0..80).map(|n| insert("tasks", &format!("{push}-{n}"), &"x".repeat(100_000), at)).collect();
        let body = serde_json::json!({ "clientId": "phone", "since": NO_DELTA, "changes": changes });
        assert_eq!(cluster.push(&user, APP, body).await.0, 200);
    }
    let open = r#"mana_sync_sessions{transport="sse"}"#;
    let mut raw = Raw::connect_narrow(cluster.url(0), 4096).await;
    let head = format!("GET /sync/todo/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", user.token);
    raw.write(head.as_bytes()).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(metric(cluster, 0, open).await, 1.0);
    eventually("the stream is ended", async || metric(cluster, 0, open).await == 0.0).await;
}
