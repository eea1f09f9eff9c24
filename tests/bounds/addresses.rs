//! Connections per address, if the client's address is known, directly or from a balancer.

use crate::support::live::{Raw, metric};
use crate::support::*;
use reqwest::Method;

const HEAD: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn an_address_has_so_many_connections_and_probes_are_answered_all_the_same() {
    let cluster = Cluster::start_with(1, &[("MAX_CONNECTIONS_PER_ADDRESS", "3")]).await;
    let mut held = Vec::new();
    let refused = loop {
        let mut raw = Raw::connect(cluster.url(0)).await;
        raw.write(HEAD.as_bytes()).await;
        let head = raw.head().await;
        if !head.starts_with("HTTP/1.1 200 ") {
            break (head, raw.rest().await);
        }
        let mut raw = Raw::connect(cluster.url(0)).await;
        raw.write(b"GET /metrics HTTP/1.1\r\n").await;
        held.push(raw);
        assert!(held.len() < 20, "nobody is refused");
    };
    let head = refused.0.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 429 ") && head.contains("\r\nretry-after: 1\r\n"), "{head}");
    let body: serde_json::Value = serde_json::from_slice(&refused.1).unwrap();
    assert_eq!(body["error"], "too_many_connections");
    let live = cluster.http.get(format!("{}/health/live", cluster.url(0))).send().await.unwrap();
    assert_eq!(live.status(), 200);
    drop(held);
    eventually("there is a place again", async || {
        metric(&cluster, 0, "mana_sync_refused_total{limit=\"connections_per_address\"}").await >= 1.0
    })
    .await;
}

#[tokio::test]
async fn a_trusted_balancer_says_with_a_header_for_whom_it_asks() {
    let settings = [("MAX_CONNECTIONS_PER_ADDRESS", "2"), ("TRUSTED_PROXIES", "127.0.0.0/8, 10.0.0.0/8")];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    let stream = |client: &str| {
        cluster.request(&user, Method::GET, "/sync/todo/stream").header("X-Forwarded-For", client).send()
    };
    let held = [stream("203.0.113.7").await.unwrap(), stream("198.51.100.1, 203.0.113.7, 10.1.1.1").await.unwrap()];
    assert!(held.iter().all(|answer| answer.status() == 200));
    let refused = stream("203.0.113.7").await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    let error: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(error["error"], "too_many_connections");
    assert_eq!(stream("203.0.113.8").await.unwrap().status(), 200, "another client of the same balancer");
    let mut socket = Raw::connect(cluster.url(0)).await;
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.7\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write(upgrade.as_bytes()).await;
    assert!(socket.head().await.starts_with("HTTP/1.1 429 "), "WebSockets are connections too");
    assert_eq!(cluster.push(&user, "todo", serde_json::json!({ "clientId": "a" })).await.0, 200, "nobody is named");
    drop(held);
    eventually("a place is given up", async || stream("203.0.113.7").await.unwrap().status() == 200).await;
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let cluster = Cluster::start_with(1, &[("MAX_CONNECTIONS_PER_ADDRESS", "1")]).await;
    let mut held = Raw::connect(cluster.url(0)).await;
    held.write(b"GET /metrics HTTP/1.1\r\n").await;
    eventually("the only place is taken", async || {
        let mut raw = Raw::connect(cluster.url(0)).await;
        raw.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n").await;
        raw.head().await.starts_with("HTTP/1.1 429 ")
    })
    .await;
}

#[tokio::test]
async fn a_trusted_balancer_says_with_the_proxy_protocol_for_whom_it_speaks() {
    let settings = [("MAX_CONNECTIONS_PER_ADDRESS", "1"), ("TRUSTED_PROXIES", "127.0.0.1"), ("PROXY_PROTOCOL", "true")];
    // A separate issuer's URL for the same purpose: with the cluster's own, its probes would have to speak the PROXY
    // protocol. With this one, it waits for the log instead.
    let issuer = jwks_url();
    let settings = [settings.as_slice(), &[("JWKS_URL", issuer.as_str())]].concat();
    let cluster = Cluster::start_with(1, &settings).await;
    let open = async |header: &[u8]| {
        let mut raw = Raw::connect(cluster.url(0)).await;
        raw.write(&[header, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"].concat()).await;
        raw
    };
    let mut version_1 = open(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n").await;
    assert!(version_1.head().await.starts_with("HTTP/1.1 200 "));
    let mut again = open(b"PROXY TCP4 203.0.113.7 192.0.2.1 4712 443\r\n").await;
    // Probes are answered even when the limit is reached.
    assert!(again.head().await.starts_with("HTTP/1.1 200 "));
    let mut refused = Raw::connect(cluster.url(0)).await;
    refused.write(b"PROXY TCP4 203.0.113.7 192.0.2.1 4713 443\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(refused.head().await.starts_with("HTTP/1.1 429 "));
    let binary = [
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"[..],
        &[203, 0, 113, 8, 192, 0, 2, 1, 0x12, 0x67, 1, 187],
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    let mut version_2 = Raw::connect(cluster.url(0)).await;
    version_2.write(&binary.concat()).await;
    assert!(version_2.head().await.starts_with("HTTP/1.1 200 "));
    let mut without = Raw::connect(cluster.url(0)).await;
    without.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(without.rest().await, b"", "who does not say for whom it speaks is not heard");
    // A balancer that terminates TLS, behind one that passes connections on: both are trusted.
    let through_both = async |client: &str| {
        let mut raw = Raw::connect(cluster.url(0)).await;
        let head = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n");
        raw.write(format!("PROXY TCP4 127.0.0.1 192.0.2.1 4714 443\r\n{head}").as_bytes()).await;
        raw.head().await
    };
    assert!(through_both("203.0.113.8").await.starts_with("HTTP/1.1 429 "), "the client of version 2 is still there");
    assert!(through_both("203.0.113.9").await.starts_with("HTTP/1.1 200 "), "another client");
}

#[tokio::test]
async fn no_bytes_of_a_client_s_own_take_it_out_of_the_count() {
    let settings = [("MAX_CONNECTIONS_PER_ADDRESS", "1"), ("TRUSTED_PROXIES", "127.0.0.0/8")];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    let open = async |forwarded_for: &[&[u8]]| {
        let mut raw = Raw::connect(cluster.url(0)).await;
        let mut head = format!("GET /sync/todo/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n", user.token);
        head.push_str("Connection: close\r\n");
        let mut head = head.into_bytes();
        for value in forwarded_for {
            head.extend([b"X-Forwarded-For: ", *value, b"\r\n"].concat());
        }
        raw.write(&[&head[..], b"\r\n"].concat()).await;
        let status = raw.head().await;
        (raw, status)
    };
    let (_held, status) = open(&[b"\xff, 203.0.113.7"]).await;
    assert!(status.starts_with("HTTP/1.1 200 "), "{status}");
    for same in [
        &[&b"203.0.113.7"[..]][..],
        &[b"\xc3\xbf, 203.0.113.7"],
        &[b"\x80\xfe", b"203.0.113.7"],
        &[b"198.51.100.1, \xff ,203.0.113.7,"],
    ] {
        let (_, status) = open(same).await;
        assert!(status.starts_with("HTTP/1.1 429 "), "{same:?}: {status}");
    }
    // If the balancer's own entry is unreadable, all such clients count as one address.
    let (_unreadable, status) = open(&[b"203.0.113.9, \xff"]).await;
    assert!(status.starts_with("HTTP/1.1 200 "), "{status}");
    for other in [&b"unknown"[..], b"\xfe", b"203.0.113.10, _hidden"] {
        let (_, status) = open(&[other]).await;
        assert!(status.starts_with("HTTP/1.1 429 "), "{other:?}: {status}");
    }
}
