//! Unauthenticated clients: their input is bounded until they have authenticated.

use crate::support::live::*;
use crate::support::*;
use std::time::Duration;

const WIDE: u32 = 1 << 20;
/// Maximum bytes of a message before authentication.
const LIMIT: usize = 16 << 10;

async fn close_of(raw: &mut Raw) -> Option<u16> {
    loop {
        match raw.frame().await? {
            (CLOSE, payload) => return close_code(&payload),
            _ => continue,
        }
    }
}

/// The header of a masked text frame.
fn frame_head(length: u64) -> Vec<u8> {
    [&[TEXT, 0x80 | 127][..], &length.to_be_bytes(), &[0; 4]].concat()
}

#[tokio::test]
async fn a_message_over_16_kib_before_authentication_closes_with_1009() {
    let cluster = shared().await;
    for size in [LIMIT + 1, 20_000, 60_000, 1 << 20] {
        let mut raw = Raw::websocket(cluster.url(0), "/ws", WIDE).await;
        raw.send(TEXT, &vec![b'x'; size]).await;
        assert_eq!(close_of(&mut raw).await, Some(1009), "{size} bytes");
    }
    let mut unfinished = Raw::websocket(cluster.url(0), "/ws", WIDE).await;
    unfinished.write(&[&frame_head(60_000)[..], &[b'x'; 40_000]].concat()).await;
    assert_eq!(close_of(&mut unfinished).await, Some(1009), "of one that is not finished either");
    let mut fragments = Raw::websocket(cluster.url(0), "/ws", WIDE).await;
    fragments.send(0x01, &[b'x'; 10_000]).await;
    fragments.send(0x00, &[b'x'; 10_000]).await;
    fragments.send(0x00, &[b'x'; 10_000]).await;
    assert_eq!(close_of(&mut fragments).await, Some(1009), "nor of one in parts");
}

#[tokio::test]
async fn what_is_no_larger_is_read_and_after_authentication_64_kib_are() {
    let (cluster, user) = (shared().await, shared().await.user());
    let mut raw = Raw::websocket(cluster.url(0), "/ws", WIDE).await;
    raw.send(TEXT, &vec![b'x'; LIMIT]).await;
    let padding = "x".repeat(LIMIT - 2_000);
    let auth = serde_json::json!({ "type": "auth", "token": user.token, "more": padding }).to_string();
    assert!(auth.len() <= LIMIT);
    raw.send(TEXT, auth.as_bytes()).await;
    assert_eq!(raw.frame().await, Some((TEXT, br#"{"type":"auth-ok"}"#.to_vec())));
    for _ in 0..20 {
        raw.send(TEXT, &vec![b'x'; 64 << 10]).await;
    }
    // Frames without useful content count too, and do not add up.
    for _ in 0..2_000 {
        raw.send(PING, b"").await;
    }
    raw.send(TEXT, br#"{"type":"ping"}"#).await;
    loop {
        let (first, payload) = raw.frame().await.expect("it stays open");
        if first == TEXT {
            assert_eq!(payload, br#"{"type":"pong"}"#);
            break;
        }
    }
}

#[tokio::test]
async fn a_socket_whose_buffer_has_grown_counts_for_as_long_as_it_is_open() {
    let cluster = Cluster::start_with(1, &[]).await;
    let user = cluster.user();
    let reserved = async |budget: &str| metric(&cluster, 0, &format!("mana_sync_{budget}_bytes")).await as usize;
    let pong = async |raw: &mut Raw| {
        raw.send(TEXT, br#"{"type":"ping"}"#).await;
        assert_eq!(raw.frame().await, Some((TEXT, br#"{"type":"pong"}"#.to_vec())));
    };
    let mut raw = Raw::websocket(cluster.url(0), "/ws", WIDE).await;
    raw.send(TEXT, &vec![b'x'; LIMIT]).await;
    pong(&mut raw).await;
    assert_eq!(reserved("unauthenticated").await, LIMIT, "its message is whole, and the buffer still there");
    raw.send(TEXT, serde_json::json!({ "type": "auth", "token": user.token }).to_string().as_bytes()).await;
    assert_eq!(raw.frame().await, Some((TEXT, br#"{"type":"auth-ok"}"#.to_vec())));
    pong(&mut raw).await;
    assert_eq!((reserved("unauthenticated").await, reserved("stream").await), (0, LIMIT), "now for its user");
    let mut other = Raw::member(cluster.url(0), "/ws", &user, WIDE).await;
    other.send(TEXT, &vec![b'x'; 60_000]).await;
    pong(&mut other).await;
    assert_eq!(reserved("stream").await, LIMIT + (64 << 10));
    drop((raw, other));
    eventually("all of it is given back", async || reserved("stream").await == 0).await;
}

#[tokio::test]
async fn unfinished_messages_and_heads_share_what_there_is_and_leave_the_rest_alone() {
    let settings = [
        ("MAX_UNAUTHENTICATED_BYTES", "1048576"),
        ("QUEUE_TIMEOUT_MS", "1000"),
        ("WS_AUTH_TIMEOUT_MS", "300000"),
        ("HEADER_TIMEOUT_MS", "300000"),
    ];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    let mut sockets = Vec::new();
    for _ in 0..100 {
        let mut raw = Raw::websocket(cluster.url(0), "/ws", WIDE).await;
        raw.write(&[&frame_head(15_000)[..], &[b'x'; 12_000]].concat()).await;
        sockets.push(raw);
    }
    let reserved = async || metric(&cluster, 0, "mana_sync_unauthenticated_bytes").await;
    eventually("some find no room", async || {
        metric(&cluster, 0, "mana_sync_refused_total{limit=\"unauthenticated_bytes\"}").await >= 30.0
    })
    .await;
    assert!(reserved().await <= 1_048_576.0);
    // 64 sockets hold all the memory: a long head waits, and is then refused.
    let mut raw = Raw::connect(cluster.url(0)).await;
    raw.write(format!("GET /health HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(20_000)).as_bytes()).await;
    let answer = raw.head().await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 503 ") && answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    let body: serde_json::Value = serde_json::from_slice(&raw.rest().await).unwrap();
    assert_eq!(body["error"], "busy");
    // A client that authenticates with a short message is let in.
    let let_in = async {
        let mut member = socket(&cluster, 0, &user, None, None).await;
        store(&cluster, 0, &user, "phone", &[("tasks", "a")]).await;
        assert_eq!(woken(&mut member).await.1, ["tasks"]);
    };
    soon(&cluster, Duration::from_secs(5), "whoever says who it is in few words is let in", let_in).await;
    drop(sockets);
    eventually("all of it is given back", async || reserved().await == 0.0).await;
}

#[tokio::test]
async fn a_socket_for_whose_message_there_is_no_room_is_told_to_come_back() {
    let settings = [("MAX_UNAUTHENTICATED_BYTES", "1048576"), ("QUEUE_TIMEOUT_MS", "100")];
    let cluster = Cluster::start_with(1, &settings).await;
    let mut heads = Vec::new();
    for _ in 0..16 {
        let mut raw = Raw::connect(cluster.url(0)).await;
        raw.write(format!("GET /health HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(20_000)).as_bytes()).await;
        heads.push(raw);
    }
    eventually("heads hold all there is", async || {
        metric(&cluster, 0, "mana_sync_unauthenticated_bytes").await == 1_048_576.0
    })
    .await;
    let mut raw = Raw::websocket(cluster.url(0), "/ws", WIDE).await;
    raw.write(&[&frame_head(15_000)[..], &[b'x'; 12_000]].concat()).await;
    assert_eq!(close_of(&mut raw).await, Some(1013));
    for raw in &mut heads {
        raw.write(b"\r\n\r\n").await;
        assert!(raw.head().await.starts_with("HTTP/1.1 200 "), "a head that is finished is answered");
    }
    eventually("all of it is given back", async || metric(&cluster, 0, "mana_sync_unauthenticated_bytes").await == 0.0)
        .await;
}

fn pull_with_long_head(token: &str) -> String {
    let long = "x".repeat(20_000);
    format!(
        "GET /sync/todo/pull?collection=t&since={BEGINNING} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         X-Long: {long}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_head_that_is_whole_counts_until_it_is_known_who_sends_it() {
    // A token with an unknown key waits until the issuer may be asked again.
    let settings =
        [("MAX_UNAUTHENTICATED_BYTES", "1048576"), ("QUEUE_TIMEOUT_MS", "1000"), ("JWKS_COOLDOWN_MS", "200000")];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    let claims = serde_json::json!({ "sub": "somebody", "exp": now_millis() / 1000 + 600 });
    let unknown = mana_dev::SigningKey::generate().unwrap().mint(&claims);
    let reserved = async || metric(&cluster, 0, "mana_sync_unauthenticated_bytes").await;
    let mut waiting = Vec::new();
    for _ in 0..40 {
        let mut raw = Raw::connect(cluster.url(0)).await;
        raw.write(pull_with_long_head(&unknown).as_bytes()).await;
        waiting.push(raw);
    }
    eventually("some find no room", async || {
        metric(&cluster, 0, "mana_sync_refused_total{limit=\"unauthenticated_bytes\"}").await >= 20.0
    })
    .await;
    assert_eq!(reserved().await, 1_048_576.0, "those that wait for keys hold all there is");
    let pulled = cluster.pulled(&user, "todo", "t", BEGINNING, None);
    soon(&cluster, Duration::from_secs(5), "whoever says who it is in few words is let in", pulled).await;
    drop(waiting);
    eventually("all of it is given back", async || reserved().await == 0.0).await;
    let mut raw = Raw::connect(cluster.url(0)).await;
    raw.write(pull_with_long_head(&user.token).as_bytes()).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "), "a long head is no fault in itself");
}

#[tokio::test]
async fn a_long_head_counts_for_its_user_as_long_as_it_is_being_answered() {
    let cluster = Cluster::start_with(1, &[]).await;
    let user = cluster.user();
    let long = "x".repeat(20_000);
    let head = format!(
        "POST /sync/todo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\nX-Long: {long}\r\n\r\n{{",
        user.token
    );
    let mut stalled = Raw::connect(cluster.url(0)).await;
    stalled.write(head.as_bytes()).await;
    let of_user = async || metric(&cluster, 0, "mana_sync_stream_bytes").await;
    eventually("it counts for the user", async || of_user().await >= 20_000.0).await;
    assert_eq!(metric(&cluster, 0, "mana_sync_unauthenticated_bytes").await, 0.0);
    drop(stalled);
    eventually("it is given back", async || of_user().await == 0.0).await;
}
