//! A running replica: raw bytes on its port, queries, pushes and frames. Afterwards it serves as before.

use crate::shapes::{broken, name, push, stamp};
use crate::support::live::{Raw, TEXT};
use crate::support::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

/// Cases of each kind; every run draws the same.
const CASES: usize = 150;

fn drawn<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..CASES).map(|_| strategy.new_tree(&mut runner).expect("it can be drawn").current()).collect()
}

async fn serves(cluster: &Cluster) {
    let user = cluster.user();
    let push = json!({ "clientId": "a", "changes": [insert("t", "1", "x", "2024-01-01T10:00:00.000Z")] });
    assert_eq!(cluster.push(&user, "todo", push).await.0, 200);
    assert!(!cluster.nodes[0].log().contains("panicked"), "{}", cluster.nodes[0].log());
}

/// The statuses that a client may receive for its input.
fn is_told(status: u16) -> bool {
    matches!(status, 200 | 400 | 404 | 405 | 408 | 413 | 414 | 415 | 422 | 426 | 431)
}

#[tokio::test]
async fn pushes_that_are_nearly_right_are_stored_whole_or_refused_with_what_to_do() {
    let cluster = Cluster::start(1).await;
    for push in drawn(push()) {
        let user = cluster.user();
        let body = push.to_string();
        let reply = cluster.push_raw(&user, "todo", body.clone()).await;
        let answer: Value = serde_json::from_str(&reply.text).unwrap_or_else(|_| panic!("{body}: {}", reply.text));
        let stored = cluster.stored(&user).await;
        if reply.status == 200 {
            let pushed = push["changes"].as_array().map_or(0, Vec::len) as i64;
            assert!(stored <= pushed && (pushed == 0) == (stored == 0), "{stored} of {body}");
            let read = cluster.push_all(&user, "todo", BEGINNING, "another").await;
            assert!(ids_of(&read).len() as i64 <= stored);
        } else {
            assert!(matches!(reply.status.as_u16(), 400 | 422), "{}: {body}", reply.status);
            assert!(answer["message"].as_str().is_some_and(|message| message.len() > 10), "{answer}");
            assert_eq!(stored, 0, "{body}");
        }
    }
    serves(&cluster).await;
}

#[tokio::test]
async fn queries_and_headers_of_any_kind_are_answered_or_refused() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    for (table, since, client) in drawn((name(), stamp(), name())) {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("collection", &table)
            .append_pair("since", &since)
            .finish();
        let encoded = percent_encoding::utf8_percent_encode(&client, percent_encoding::NON_ALPHANUMERIC).to_string();
        let request = cluster.request(&user, Method::GET, &format!("/sync/todo/pull?{query}"));
        let reply = Reply::to(request.header("X-Client-Id", encoded)).await;
        assert!(is_told(reply.status.as_u16()), "{}: {query} {client:?}", reply.status);
        assert!(serde_json::from_str::<Value>(&reply.text).is_ok(), "{}", reply.text);
    }
    serves(&cluster).await;
}

#[tokio::test]
async fn whatever_comes_on_the_port_is_answered_or_cut_off() {
    let cluster = Cluster::start_with(1, &[("HEADER_TIMEOUT_MS", "300"), ("BODY_TIMEOUT_MS", "300")]).await;
    let user = cluster.user();
    let bodies = push().prop_map(|push| push.to_string());
    let requests =
        (prop::sample::select(vec!["GET", "POST", "PUT", "OPTIONS", "HEAD", "BREW"]), name(), bodies, 0..4u8);
    let token = user.token.clone();
    let requests = requests.prop_map(move |(method, app, body, kind)| {
        let framing = match kind {
            0 => format!("Content-Length: {}\r\n\r\n{body}", body.len()),
            1 => format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
            2 => format!("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
            _ => format!("Content-Length: {}\r\n\r\n{body}", body.len() + 7),
        };
        let head = format!("{method} /sync/{app} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n");
        format!("{head}Content-Type: application/json\r\nConnection: close\r\n{framing}").into_bytes()
    });
    for bytes in drawn(broken(requests)) {
        let mut raw = Raw::connect(cluster.url(0)).await;
        // The connection may have been cut already.
        let _ = raw.try_write(&bytes).await;
        let answer = timeout(TIMEOUT, raw.rest()).await.expect("it ends");
        if !answer.is_empty() {
            let text = String::from_utf8_lossy(&answer);
            let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
            assert!(status.is_some_and(|status| is_told(status) || status == 401), "{text}");
        }
    }
    serves(&cluster).await;
}

#[tokio::test]
async fn frames_of_any_kind_are_read_ignored_or_close_the_socket() {
    let cluster = Cluster::start_with(1, &[("WS_AUTH_TIMEOUT_MS", "300")]).await;
    let user = cluster.user();
    let frame =
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..40), any::<bool>()).prop_map(|(first, payload, mask)| {
            let length = payload.len() as u8 | if mask { 0x80 } else { 0 };
            [&[first, length][..], if mask { &[0; 4] } else { &[] }, &payload].concat()
        });
    let frames = broken(prop::collection::vec(frame, 1..5).prop_map(|frames| frames.concat()));
    for (n, bytes) in drawn(frames).into_iter().enumerate() {
        let mut raw = Raw::websocket(cluster.url(0), "/ws", 1 << 16).await;
        if n % 3 == 0 {
            let auth = json!({ "type": "auth", "token": user.token }).to_string();
            raw.send(TEXT, auth.as_bytes()).await;
        }
        let _ = raw.try_write(&bytes).await;
        drop(raw);
    }
    eventually("nobody is left", async || live::metric(&cluster, 0, "mana_sync_connections_total").await == 0.0).await;
    serves(&cluster).await;
}
