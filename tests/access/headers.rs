//! Headers: those of every response, those of some errors, and the device names they may carry.

use crate::support::*;
use mana_dev::{Mode, SigningKey};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const AT: &str = "2024-01-01T10:05:00.000Z";
const PULL: &str = "/sync/todo/pull?collection=todos&since=1970-01-01T00:00:00.000Z";

fn push(cluster: &Cluster, user: &User) -> RequestBuilder {
    let body = json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", AT)] });
    cluster.request(user, Method::POST, "/sync/todo").json(&body)
}

#[tokio::test]
async fn no_answer_is_stored_by_a_cache_or_guessed_at_by_a_browser() {
    let cluster = Cluster::start(1).await;
    let (user, unpaid) = (cluster.user(), cluster.user());
    cluster.credits.set_active(&unpaid.id, false);
    let get = |user: &User, path: &str| cluster.request(user, Method::GET, path);
    let requests = [
        ("push", push(&cluster, &user), 200),
        ("pull", get(&user, PULL), 200),
        ("health", get(&user, "/health"), 200),
        ("live", get(&user, "/health/live"), 200),
        ("ready", get(&user, "/health/ready"), 200),
        ("metrics", get(&user, "/metrics"), 200),
        ("no parameters", get(&user, "/sync/todo/pull"), 400),
        ("no token", cluster.http.get(format!("{}{PULL}", cluster.url(0))), 401),
        ("not paid for", get(&unpaid, PULL), 402),
        ("nothing there", get(&user, "/nothing"), 404),
        ("another method", get(&user, "/sync/todo"), 405),
        ("no JSON", cluster.request(&user, Method::POST, "/sync/todo").body("x"), 415),
        ("no socket", get(&user, "/ws"), 426),
        ("a preflight", cluster.http.request(Method::OPTIONS, format!("{}{PULL}", cluster.url(0))), 200),
    ];
    for (what, request, status) in requests {
        let reply = Reply::to(request).await;
        assert_eq!(reply.status.as_u16(), status, "{what}: {reply:?}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{what}: {reply:?}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{what}: {reply:?}");
    }
    let stream = get(&user, "/sync/todo/stream").send().await.unwrap();
    assert_eq!(stream.headers()["x-content-type-options"], "nosniff");
    let caching = stream.headers()["cache-control"].to_str().unwrap();
    assert!(caching.contains("no-store") && caching.contains("no-transform"), "{caching}");
}

#[tokio::test]
async fn so_it_is_with_a_replica_that_is_full() {
    let cluster = Cluster::start_with(1, &[("MAX_CONNECTIONS", "10")]).await;
    let user = cluster.user();
    // Not counted beforehand: the connection that asked whether it is ready may still be there.
    let (mut streams, mut refused) = (Vec::new(), None);
    eventually("it is full", async || {
        let reply = Reply::to(cluster.request(&user, Method::GET, PULL)).await;
        if reply.status == StatusCode::OK {
            streams.push(cluster.request(&user, Method::GET, "/sync/todo/stream").send().await);
            return false;
        }
        refused = Some(reply);
        true
    })
    .await;
    let reply = refused.unwrap();
    reply.refused(503, "busy");
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{reply:?}");
    assert_eq!(reply.header("cache-control"), Some("no-store"), "{reply:?}");
}

#[tokio::test]
async fn so_it_is_for_a_client_of_a_balancer_that_has_too_many_connections() {
    let settings = [("MAX_CONNECTIONS_PER_ADDRESS", "1"), ("TRUSTED_PROXIES", "127.0.0.0/8")];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    let ask = |path| cluster.request(&user, Method::GET, path).header("X-Forwarded-For", "203.0.113.7");
    let _stream = ask("/sync/todo/stream").send().await.unwrap();
    let reply = Reply::to(ask(PULL)).await;
    reply.refused(429, "too_many_connections");
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{reply:?}");
    assert_eq!(reply.header("cache-control"), Some("no-store"), "{reply:?}");
}

#[tokio::test]
async fn an_error_says_in_a_header_what_would_do() {
    let cluster = Cluster::start_with(1, &[("JWKS_COOLDOWN_MS", "20")]).await;
    for path in [PULL, "/sync/todo/stream"] {
        for authorization in ["", "Basic YTpi", "Bearer x"] {
            let reply = cluster.get_as(authorization, path).await;
            reply.refused(401, "unauthorized");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{reply:?}");
        }
    }
    for path in ["/ws", "/ws/todo"] {
        let reply = cluster.get(path).await;
        reply.refused(426, "upgrade_required");
        assert_eq!(reply.header("upgrade"), Some("websocket"), "{reply:?}");
        assert!(reply.header("connection").is_some_and(|words| words.contains("upgrade")), "{reply:?}");
    }
    // Only a 401 has this header: a client would fetch another token for nothing.
    cluster.issuer.set_mode(Mode::Error(500));
    let unknown = SigningKey::generate().unwrap().token("somebody", TIMEOUT);
    let reply = cluster.get_as(&format!("Bearer {unknown}"), PULL).await;
    reply.refused(503, "unavailable");
    assert_eq!(reply.header("www-authenticate"), None, "{reply:?}");
}

#[tokio::test]
async fn a_body_in_an_encoding_is_415_and_stores_nothing() {
    let cluster = shared().await;
    let user = cluster.user();
    for coding in
        ["gzip", "zstd", "br", "deflate", "GZIP", "x-gzip", "identity, gzip", "gzip, identity", "unknown", "*"]
    {
        let reply = Reply::to(push(cluster, &user).header("Content-Encoding", coding)).await;
        let message = reply.refused(415, "unsupported_media_type");
        assert!(message.contains("Content-Encoding"), "{coding}: {message}");
        assert_eq!(reply.header("accept-encoding"), Some("identity"), "{coding}: {reply:?}");
    }
    let twice = push(cluster, &user).header("Content-Encoding", "identity").header("Content-Encoding", "gzip");
    Reply::to(twice).await.refused(415, "unsupported_media_type");
    assert_eq!(cluster.stored(&user).await, 0);
    for coding in ["identity", "Identity", ""] {
        let reply = Reply::to(push(cluster, &user).header("Content-Encoding", coding)).await;
        assert_eq!(reply.status, 200, "{coding}: {reply:?}");
    }
}

/// The ids that a pull from just after the beginning returns to the device that a header names.
async fn left_for(cluster: &Cluster, user: &User, header: &[u8]) -> Vec<String> {
    const JUST_AFTER: &str = "1970-01-01T00:00:00.001Z";
    let path = format!("/sync/todo/pull?collection=todos&since={JUST_AFTER}");
    let request = cluster.request(user, Method::GET, &path);
    let reply = Reply::to(request.header("X-Client-Id", HeaderValue::from_bytes(header).unwrap())).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    ids(&reply.json()).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn what_can_push_can_pull() {
    let cluster = shared().await;
    for id in [
        "ü",
        "日本語 tab",
        "🍎",
        "ü%20",
        "100 % ü",
        "%ü",
        "ä\"b\\c",
        " a ",
        "a\nb",
        "\u{80}",
        &"ü".repeat(127),
        "my phone",
        "my%20phone",
        "100%25",
    ] {
        let user = cluster.user();
        let body = |client: &str, record: &str| json!({ "clientId": client, "since": AT, "changes": [insert("todos", record, "Milk", AT)] });
        cluster.pushed(&user, "todo", body(id, "own")).await;
        cluster.pushed(&user, "todo", body("another", "other")).await;
        let encoded = utf8_percent_encode(id, NON_ALPHANUMERIC).to_string();
        assert_eq!(left_for(cluster, &user, encoded.as_bytes()).await, ["other"], "{id:?} encoded");
        let decodes = id.is_ascii() && percent_encoding::percent_decode_str(id).decode_utf8_lossy() != id;
        if !id.contains('\n') && id.trim() == id && !decodes {
            assert_eq!(left_for(cluster, &user, id.as_bytes()).await, ["other"], "{id:?} as it is");
        }
        // A push that names its device in the header belongs to the same device.
        let push = cluster.request(&user, Method::POST, "/sync/todo").header("X-Client-Id", encoded);
        let delta = Reply::to(push.json(&json!({ "since": "1970-01-01T00:00:00.001Z", "changes": [] }))).await;
        assert_eq!(ids(&delta.json()), ["other"], "{id:?} {delta:?}");
    }
}

#[tokio::test]
async fn a_name_without_an_encoded_character_means_what_it_says_also_with_a_percent_sign() {
    let cluster = shared().await;
    for id in ["chrome-tab-abc123", "50%", "%", "%zz", "%FF", "a b", "a/b?c#d"] {
        let user = cluster.user();
        let body = |client: &str, record: &str| json!({ "clientId": client, "since": AT, "changes": [insert("todos", record, "Milk", AT)] });
        cluster.pushed(&user, "todo", body(id, "own")).await;
        cluster.pushed(&user, "todo", body("another", "other")).await;
        assert_eq!(left_for(cluster, &user, id.as_bytes()).await, ["other"], "{id:?}");
    }
}

#[tokio::test]
async fn a_name_that_is_no_text_is_refused_with_what_to_do() {
    let cluster = shared().await;
    let user = cluster.user();
    for header in [&b"\xff"[..], b"\xfc", b"phone\xc3", b"\xed\xa0\x80"] {
        let header = HeaderValue::from_bytes(header).unwrap();
        for (method, path) in [(Method::GET, PULL), (Method::GET, "/sync/todo/stream"), (Method::POST, "/sync/todo")] {
            let request = cluster.request(&user, method, path).header("X-Client-Id", &header).json(&json!({}));
            let message = Reply::to(request).await.refused(400, "bad_request");
            assert!(message.contains("X-Client-Id") && message.contains("percent-encoded"), "{message}");
        }
    }
    let long = utf8_percent_encode(&"ü".repeat(128), NON_ALPHANUMERIC).to_string();
    let request = cluster.request(&user, Method::GET, PULL).header("X-Client-Id", long);
    Reply::to(request).await.refused(400, "bad_request");
    let request = cluster.request(&user, Method::GET, PULL).header("X-Client-Id", "a%00");
    Reply::to(request).await.refused(400, "bad_request");
}

/// As curl sends large bodies.
#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_not_asked_for_one_that_is_refused() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    // The credits service has answered already, so nothing waits for it.
    assert_eq!(push(&cluster, &user).send().await.unwrap().status(), 200);
    let cases = [
        ("nonsense", "application/json", 100, "HTTP/1.1 401 "),
        (&*user.token, "text/plain", 100, "HTTP/1.1 415 "),
        (&*user.token, "application/json", (10 << 20) + 1, "HTTP/1.1 413 "),
        (&*user.token, "application/json", 100, "HTTP/1.1 100 "),
    ];
    for (token, kind, length, begins) in cases {
        let head = format!(
            "POST /sync/todo HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: {kind}\r\n\
             Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        );
        // After a quarter of a second, which is long unless the machine is busy, a client may have begun to send.
        eventually("it is answered before a client would send", async || {
            let asked = Instant::now();
            let mut stream = TcpStream::connect(cluster.url(0).trim_start_matches("http://")).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = vec![0; begins.len()];
            tokio::time::timeout(TIMEOUT, stream.read_exact(&mut answer)).await.unwrap().unwrap();
            let is_as_expected = answer == begins.as_bytes();
            let is_late = asked.elapsed() > Duration::from_millis(250);
            assert!(is_as_expected || is_late, "{begins} {}", String::from_utf8_lossy(&answer));
            is_as_expected
        })
        .await;
    }
}
