//! Refusals as operators see them: in metrics by endpoint and reason, and in the log.

use crate::claims::{changed, good, lacking};
use crate::support::live::{Raw, TEXT, closed, metric, socket};
use crate::support::*;
use mana_dev::{Mode, SigningKey, TemporaryPostgres};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const PULL: &str = "/sync/todo/pull?collection=todos&since=1970-01-01T00:00:00.000Z";
const STREAM: &str = "/sync/todo/stream";

fn claims() -> Value {
    changed(changed(good(), "iss", "us"), "aud", "sync")
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    changed(claims(), name, value)
}

fn without(name: &str) -> Value {
    lacking(claims(), name)
}

/// Everything refused or accepted so far, by endpoint and reason, without zeros.
async fn counts(cluster: &Cluster) -> BTreeMap<(String, String), f64> {
    let text = cluster.get("/metrics").await.text;
    let label = |line: &str, name: &str| Some(line.split_once(&format!("{name}=\""))?.1.split_once('"')?.0.to_owned());
    let lines = text.lines().filter(|line| line.starts_with("mana_sync_requests_"));
    let read = lines.map(|line| {
        let reason = label(line, "reason").unwrap_or_else(|| "accepted".to_owned());
        ((label(line, "endpoint").unwrap(), reason), line.rsplit_once(' ').unwrap().1.parse().unwrap())
    });
    read.filter(|(_, count)| *count > 0.0).collect()
}

/// The increases between two counts.
fn between(
    before: &BTreeMap<(String, String), f64>,
    after: &BTreeMap<(String, String), f64>,
) -> Vec<(String, String, f64)> {
    let grown =
        after.iter().map(|(key, count)| (key.0.clone(), key.1.clone(), count - before.get(key).unwrap_or(&0.0)));
    grown.filter(|(_, _, count)| *count > 0.0).collect()
}

/// Sends a token on a WebSocket, which the server must close.
async fn say(cluster: &Cluster, token: &str) {
    let mut raw = Raw::websocket(cluster.url(0), "/ws", 1 << 20).await;
    raw.send(TEXT, json!({ "type": "auth", "token": token }).to_string().as_bytes()).await;
    raw.until_closed().await;
}

/// Sends a token in every possible way; each attempt must be refused for that reason.
async fn assert_counted(cluster: &Cluster, token: &str, reason: &str) {
    let before = counts(cluster).await;
    let user = User { id: String::new(), token: token.to_owned() };
    for (method, path) in [(Method::POST, "/sync/todo"), (Method::GET, PULL), (Method::GET, STREAM)] {
        let reply = Reply::to(cluster.request(&user, method, path).json(&json!({ "clientId": "phone" }))).await;
        assert_eq!(reply.status.as_u16(), 401, "{reason}: {reply:?}");
    }
    say(cluster, token).await;
    let expected: Vec<_> =
        ["pull", "push", "stream", "websocket"].map(|endpoint| (endpoint.to_owned(), reason.to_owned(), 1.0)).to_vec();
    eventually(reason, async || between(&before, &counts(cluster).await) == expected).await;
}

#[tokio::test]
async fn each_check_of_a_token_has_a_reason_of_its_own_everywhere() {
    let cluster = Cluster::start_with(1, &[("JWT_ISSUER", "us"), ("JWT_AUDIENCE", "sync")]).await;
    let (key, stranger) = (&cluster.key, SigningKey::generate().unwrap());
    let header = |kid: &str| json!({ "alg": "EdDSA", "kid": kid });
    let long_ago = now_millis() / 1000 - 600;
    for (token, reason) in [
        ("x".to_owned(), "token_malformed"),
        (key.mint_with(&json!({ "alg": "HS256", "kid": key.kid() }), &claims()), "token_algorithm"),
        (key.mint_with(&json!({ "alg": "none", "kid": key.kid() }), &claims()), "token_algorithm"),
        (key.mint_with(&json!({ "alg": "ES512", "kid": key.kid() }), &claims()), "token_algorithm"),
        (key.mint_with(&json!({ "alg": 7, "kid": key.kid() }), &claims()), "token_malformed"),
        (key.mint_with(&json!({ "alg": "EdDSA" }), &claims()), "token_key_missing"),
        (stranger.mint(&claims()), "token_key_unknown"),
        (stranger.mint_with(&header(key.kid()), &claims()), "token_signature"),
        (key.mint(&with("exp", long_ago)), "token_expired"),
        (key.mint(&with("nbf", now_millis() / 1000 + 600)), "token_not_yet_valid"),
        (key.mint(&with("iss", "them")), "token_issuer"),
        (key.mint(&without("iss")), "token_issuer"),
        (key.mint(&with("aud", "billing")), "token_audience"),
        (key.mint(&without("aud")), "token_audience"),
        (key.mint(&with("sub", "")), "token_subject"),
        (key.mint(&without("exp")), "token_claims"),
    ] {
        assert_counted(&cluster, &token, reason).await;
    }
}

#[tokio::test]
async fn a_replica_that_refuses_everybody_shows_it_and_says_why_once_in_a_while() {
    let cluster = Cluster::start_with(1, &[("JWT_AUDIENCE", "another"), ("RUST_LOG", "info")]).await;
    let user = cluster.user();
    for _ in 0..50 {
        cluster.push_raw(&user, "todo", "{}").await.refused(401, "unauthorized");
    }
    assert_eq!(metric(&cluster, 0, "mana_sync_requests_accepted_total{endpoint=\"push\"}").await, 0.0);
    let series = "mana_sync_requests_refused_total{endpoint=\"push\",reason=\"token_audience\"}";
    assert_eq!(metric(&cluster, 0, series).await, 50.0);
    let log = cluster.nodes[0].log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let told: Vec<&Value> = lines.iter().filter(|line| line["reason"] == "token_audience").collect();
    // 50 requests take less than the ten seconds between two log lines, or little more.
    assert!((1..=5).contains(&told.len()), "{told:?}");
    assert_eq!((&told[0]["level"], &told[0]["kid"]), (&json!("INFO"), &json!(cluster.key.kid())));
    assert!(told[0]["message"].as_str().unwrap().contains("(aud)"), "{}", told[0]);
    assert!(!log.contains(&user.token) && !log.contains(&user.id), "{log}");
}

#[tokio::test]
async fn the_id_of_a_key_is_written_in_part_if_it_is_long() {
    let cluster = Cluster::start_with(1, &[("RUST_LOG", "info")]).await;
    let kid = "k".repeat(5_000);
    let token = cluster.key.mint_with(&json!({ "alg": "EdDSA", "kid": kid }), &claims());
    cluster.get_as(&format!("Bearer {token}"), PULL).await.refused(401, "unauthorized");
    let log = cluster.nodes[0].log();
    assert!(log.contains(&"k".repeat(64)) && !log.contains(&"k".repeat(65)), "{log}");
}

#[tokio::test]
async fn what_is_let_in_is_counted_beside_it_and_probes_and_preflights_are_not() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    let before = counts(&cluster).await;
    cluster.pushed(&user, "todo", json!({ "clientId": "phone" })).await;
    cluster.pulled(&user, "todo", "todos", BEGINNING, None).await;
    let stream = cluster.request(&user, Method::GET, STREAM).send().await.unwrap();
    let _socket = socket(&cluster, 0, &user, None, None).await;
    let expected =
        ["pull", "push", "stream", "websocket"].map(|endpoint| (endpoint.to_owned(), "accepted".to_owned(), 1.0));
    assert_eq!(between(&before, &counts(&cluster).await), expected);

    let before = counts(&cluster).await;
    for path in ["/health", "/health/live", "/health/ready", "/nowhere"] {
        cluster.get(path).await;
    }
    let url = format!("{}/sync/todo", cluster.url(0));
    let preflight = cluster.http.request(Method::OPTIONS, &url).header("Origin", "https://todo.example.com");
    Reply::to(preflight.header("Access-Control-Request-Method", "POST")).await;
    Reply::to(cluster.http.get(&url)).await;
    assert_eq!(between(&before, &counts(&cluster).await), []);
    drop(stream);
}

/// Waits until exactly this has been counted since `before`.
async fn assert_grown(cluster: &Cluster, before: &BTreeMap<(String, String), f64>, expected: &[(&str, &str, f64)]) {
    let expected: Vec<_> = expected.iter().map(|(e, r, n)| ((*e).to_owned(), (*r).to_owned(), *n)).collect();
    eventually(&format!("{expected:?}"), async || between(before, &counts(cluster).await) == expected).await;
}

#[tokio::test]
async fn who_has_not_paid_is_refused_for_that_and_sockets_are_not() {
    let cluster = Cluster::start_with(1, &[("RUST_LOG", "info")]).await;
    let user = cluster.user();
    cluster.credits.set_active(&user.id, false);
    let before = counts(&cluster).await;
    cluster.push_raw(&user, "todo", r#"{"clientId":"phone"}"#).await.refused(402, "sync_inactive");
    for path in [PULL, STREAM] {
        Reply::to(cluster.request(&user, Method::GET, path)).await.refused(402, "sync_inactive");
    }
    let _socket = socket(&cluster, 0, &user, None, None).await;
    let inactive = "sync_inactive";
    let expected =
        [("pull", inactive, 1.0), ("push", inactive, 1.0), ("stream", inactive, 1.0), ("websocket", "accepted", 1.0)];
    assert_grown(&cluster, &before, &expected).await;
    let log = cluster.nodes[0].log();
    assert_eq!(log.matches(r#""reason":"sync_inactive""#).count(), 1, "one line for three: {log}");
    assert!(!log.contains(&user.id), "{log}");
}

#[tokio::test]
async fn limits_silence_other_users_and_bad_requests_have_their_reasons() {
    let settings = [("MAX_SESSIONS_PER_USER", "1"), ("WS_AUTH_TIMEOUT_MS", "3000")];
    let cluster = Cluster::start_with(1, &settings).await;
    let (user, other) = (cluster.user(), cluster.user());

    let before = counts(&cluster).await;
    let mut first = socket(&cluster, 0, &user, None, None).await;
    say(&cluster, &user.token).await;
    Reply::to(cluster.request(&user, Method::GET, STREAM)).await.refused(429, "too_many_connections");
    let limit = "user_limit";
    let expected = [("stream", limit, 1.0), ("websocket", "accepted", 1.0), ("websocket", limit, 1.0)];
    assert_grown(&cluster, &before, &expected).await;

    let before = counts(&cluster).await;
    first.send(&json!({ "type": "auth", "token": other.token }).to_string()).await.unwrap();
    closed(&mut first).await;
    assert_grown(&cluster, &before, &[("websocket", "token_other_user", 1.0)]).await;

    let before = counts(&cluster).await;
    Raw::websocket(cluster.url(0), "/ws/todo", 1 << 20).await.until_closed().await;
    for path in ["/ws", PULL, STREAM] {
        assert!(cluster.get(path).await.status.is_client_error(), "{path}");
    }
    Reply::to(cluster.request(&other, Method::GET, "/sync/todo/pull")).await.refused(400, "bad_request");
    Reply::to(cluster.request(&other, Method::POST, "/sync/todo").body("{}"))
        .await
        .refused(415, "unsupported_media_type");
    cluster.push_raw(&other, "todo", "{").await.refused(400, "bad_request");
    let (bad, missing) = ("bad_request", "token_missing");
    let expected = [
        ("pull", bad, 1.0),
        ("pull", missing, 1.0),
        ("push", bad, 2.0),
        ("stream", missing, 1.0),
        ("websocket", bad, 1.0),
        ("websocket", missing, 1.0),
    ];
    assert_grown(&cluster, &before, &expected).await;
}

#[tokio::test]
async fn without_keys_or_database_it_is_the_replicas_fault() {
    let mut postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let keys = [("JWKS_COOLDOWN_MS", "20"), ("JWKS_REFRESH_MS", "40"), ("JWKS_MAX_STALE_MS", "10000")];
    let settings = [&keys[..], &[("DATABASE_ACQUIRE_TIMEOUT_MS", "2000")]].concat();
    let cluster = Cluster::start_on(&postgres.server().admin_url(), 1, &settings).await;
    let user = cluster.user();
    cluster.pushed(&user, "todo", json!({ "clientId": "phone" })).await;
    let everywhere = async |reason: &str| {
        let before = counts(&cluster).await;
        let user = User { token: cluster.key.mint(&with("sub", user.id.as_str())), ..user.clone() };
        let push =
            json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", "2024-01-01T10:05:00.000Z")] });
        cluster.push_raw(&user, "todo", push.to_string()).await.refused(503, "unavailable");
        for path in [PULL, STREAM] {
            Reply::to(cluster.request(&user, Method::GET, path)).await.refused(503, "unavailable");
        }
        say(&cluster, &user.token).await;
        let expected = ["pull", "push", "stream", "websocket"].map(|endpoint| (endpoint, reason, 1.0));
        assert_grown(&cluster, &before, &expected).await;
    };
    postgres.server_mut().kill().await.unwrap();
    everywhere("database_unavailable").await;
    cluster.issuer.set_mode(Mode::Error(500));
    let stale = async || {
        let token = cluster.key.mint(&with("jti", uuid::Uuid::new_v4().to_string()));
        cluster.get_as(&format!("Bearer {token}"), PULL).await.text.contains("tokens cannot be checked")
    };
    eventually("the keys are too old", stale).await;
    everywhere("keys_unavailable").await;
}
