//! `/health`, `/health/live`, `/health/ready` and `/metrics`, sentence by sentence of docs/protocol.md.

use crate::support::live::{metric, socket};
use crate::support::*;
use mana_dev::{Mode, TemporaryPostgres};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const AT: &str = "2024-01-01T10:05:00.000Z";

/// Opens a stream, which stays open while the response is held.
async fn stream(cluster: &Cluster, user: &User) -> reqwest::Response {
    let response = cluster.request(user, Method::GET, "/sync/todo/stream").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response
}

#[tokio::test]
async fn health_is_compact_json_that_scripts_can_grep() {
    let cluster = shared().await;
    let before = now_millis();
    let reply = cluster.get("/health").await;
    assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, Some("application/json")));
    assert!(reply.text.starts_with(r#"{"status":"ok","service":"mana-sync","timestamp":""#), "{}", reply.text);
    assert!(!reply.text.contains([' ', '\n']), "{}", reply.text);
    let json = reply.json();
    let timestamp = json["timestamp"].as_str().unwrap();
    let time = chrono::DateTime::parse_from_rfc3339(timestamp).unwrap().timestamp_millis();
    assert!((before..=now_millis()).contains(&time), "{timestamp}");
    let rest = reply.text.split_once(&format!("\"{timestamp}\"")).unwrap().1;
    assert_eq!(rest, format!(r#","connections":{},"users":{}}}"#, json["connections"], json["users"]));
}

#[tokio::test]
async fn health_and_metrics_count_open_connections_and_their_users() {
    let cluster = Cluster::start(1).await;
    let counts = async || {
        let health = cluster.get("/health").await.json();
        (health["connections"].as_i64().unwrap(), health["users"].as_i64().unwrap())
    };
    assert_eq!(counts().await, (0, 0));
    let (alice, bob) = (cluster.user(), cluster.user());
    let first = stream(&cluster, &alice).await;
    let second = stream(&cluster, &alice).await;
    let third = socket(&cluster, 0, &bob, None, None).await;
    let fourth = socket(&cluster, 0, &alice, Some("todo"), None).await;
    eventually("four connections of two users", async || counts().await == (4, 2)).await;
    assert_eq!(metric(&cluster, 0, "mana_sync_connections_total").await, 4.0);
    assert_eq!(metric(&cluster, 0, "mana_sync_users_connected").await, 2.0);
    drop((first, third));
    eventually("two connections of one user", async || counts().await == (2, 1)).await;
    drop((second, fourth));
    eventually("nobody", async || counts().await == (0, 0)).await;
    assert_eq!(metric(&cluster, 0, "mana_sync_connections_total").await, 0.0);
    assert_eq!(metric(&cluster, 0, "mana_sync_users_connected").await, 0.0);
}

#[tokio::test]
async fn live_never_asks_the_database_and_ready_says_what_is_missing() {
    let mut postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let settings = [("READY_GRACE_MS", "0"), ("DATABASE_ACQUIRE_TIMEOUT_MS", "2000")];
    let cluster = Cluster::start_on(&postgres.server().admin_url(), 1, &settings).await;
    let live = async || {
        let reply = cluster.get("/health/live").await;
        (reply.status.as_u16(), reply.text)
    };
    let healthy = live().await;
    assert_eq!(healthy, (200, r#"{"status":"ok"}"#.to_owned()));
    // Without grace, the first slow answer of the database counts.
    let ready = json!({ "status": "ready" });
    eventually("ready", async || cluster.get("/health/ready").await.json() == ready).await;
    eventually("the metric says so", async || metric(&cluster, 0, "mana_sync_ready").await == 1.0).await;

    postgres.server_mut().kill().await.unwrap();
    assert_eq!(live().await, healthy);
    eventually("not ready", async || cluster.get("/health/ready").await.status == 503).await;
    eventually("both are missing", async || {
        let reply = cluster.get("/health/ready").await;
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
        let message = reply.refused(503, "not_ready");
        message.contains("the database does not answer") && message.contains("the listener is not connected")
    })
    .await;
    assert_eq!(live().await, healthy);
    assert_eq!(cluster.get("/health").await.status, StatusCode::OK);
    assert_eq!(cluster.get("/metrics").await.status, StatusCode::OK);
    eventually("the metric says so", async || metric(&cluster, 0, "mana_sync_ready").await == 0.0).await;
    let lacks =
        async |reason: &str| metric(&cluster, 0, &format!("mana_sync_not_ready{{reason=\"{reason}\"}}")).await == 1.0;
    eventually("and why", async || lacks("database").await && lacks("listener").await).await;
    assert!(!lacks("keys").await && !lacks("drained").await);
}

#[tokio::test]
async fn a_replica_that_waits_for_its_database_lives_and_is_not_ready() {
    let mut postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let mut cluster = Cluster::start_on(&postgres.server().admin_url(), 1, &[]).await;
    let user = cluster.user();
    cluster.nodes[0].process.kill().await;
    postgres.server_mut().kill().await.unwrap();
    cluster.nodes[0].respawn();
    let ask = async |path: &str| {
        let asked = cluster.http.get(format!("{}{path}", cluster.url(0))).timeout(TIMEOUT).send().await;
        asked.ok().map(|answer| (answer.status().as_u16(), answer.headers().contains_key("retry-after")))
    };
    eventually("it lives", async || ask("/health/live").await == Some((200, false))).await;
    assert_eq!(ask("/health/ready").await, Some((503, true)));
    assert_eq!(ask("/health").await, Some((200, false)));
    assert_eq!(ask("/ws").await, Some((503, true)));
    assert_eq!(
        cluster.push_raw(&user, "todo", "{}").await.refused(503, "not_ready"),
        "not ready: the replica is waiting for its database"
    );
    assert_eq!(metric(&cluster, 0, "mana_sync_ready").await, 0.0);
    postgres.server_mut().restart(mana_dev::Shutdown::Fast).await.unwrap();
    cluster.nodes[0].process.wait_ready(TIMEOUT).await.unwrap();
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", AT)] })).await;
}

#[tokio::test]
async fn a_replica_is_ready_once_it_has_had_the_issuers_keys_and_stays_so() {
    let mut cluster =
        Cluster::start_with(1, &[("READY_GRACE_MS", "0"), ("JWKS_COOLDOWN_MS", "20"), ("JWKS_REFRESH_MS", "50")]).await;
    let user = cluster.user();
    let mut ways = vec![Mode::Error(500), Mode::Garbage, Mode::Hang];
    while let Some(mode) = ways.pop() {
        cluster.nodes[0].process.kill().await;
        cluster.issuer.set_mode(mode);
        let asked = cluster.issuer.requests();
        cluster.nodes[0].respawn();
        let ask = async |path: &str| {
            let asked = cluster.http.get(format!("{}{path}", cluster.url(0))).timeout(TIMEOUT).send().await;
            Some((asked.as_ref().ok()?.status().as_u16(), asked.ok()?.text().await.ok()?))
        };
        eventually("keys are the last thing that it misses", async || {
            assert!(ask("/health/ready").await.is_none_or(|(status, _)| status == 503), "{mode:?}");
            let missing = "not ready: the issuer's keys (JWKS_URL) have not been fetched yet";
            ask("/health/ready").await.is_some_and(|(_, text)| text.contains(missing))
                && cluster.issuer.requests() > asked
        })
        .await;
        assert_eq!(ask("/health/live").await.map(|(status, _)| status), Some(200), "{mode:?}");
        assert_eq!(metric(&cluster, 0, "mana_sync_ready").await, 0.0);
        cluster.issuer.set_mode(Mode::Serve);
        cluster.nodes[0].process.wait_ready(TIMEOUT).await.unwrap();

        // From here on, the issuer may be down.
        cluster.issuer.set_mode(mode);
        let asked = cluster.issuer.requests();
        eventually("it has asked in vain", async || {
            // A push with a new token makes the replica check whether the keys are still fresh.
            cluster.pull(&cluster.user(), "todo", "todos", BEGINNING, None).await;
            assert_eq!(cluster.get("/health/ready").await.status, StatusCode::OK, "{mode:?}");
            cluster.issuer.requests() > asked
        })
        .await;
        cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": [] })).await;
        assert_eq!(cluster.get("/health/ready").await.status, StatusCode::OK, "{mode:?}");
    }
}

#[tokio::test]
async fn a_replica_raises_its_limit_of_open_files() {
    let cluster = shared().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", cluster.nodes[0].process.pid())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let values: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(values[0], values[1], "soft and hard: {line}");
}

#[tokio::test]
async fn a_database_that_blinks_does_not_make_a_replica_unready() {
    let cluster = Cluster::start_with(1, &[("READY_GRACE_MS", "60000")]).await;
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&cluster.pool).await.unwrap();
    let connects = metric(&cluster, 0, "mana_sync_listener_connects_total").await;
    let others =
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()";
    sqlx::query(others).bind(&name).execute(&cluster.pool).await.unwrap();
    eventually("the listener is back", async || {
        assert_eq!(cluster.get("/health/ready").await.status, StatusCode::OK);
        metric(&cluster, 0, "mana_sync_listener_connects_total").await > connects
    })
    .await;
    assert_eq!(cluster.get("/health/ready").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_replica_that_drains_is_not_ready_and_says_so() {
    let mut cluster = Cluster::start_with(1, &[("DRAIN_DELAY_MS", "60000")]).await;
    let node = cluster.nodes.pop().unwrap();
    let url = node.url().to_owned();
    node.process.signal(nix::sys::signal::Signal::SIGTERM);
    let ask = async |path: &str| Reply::to(cluster.http.get(format!("{url}{path}"))).await;
    eventually("draining", async || ask("/health/ready").await.status == 503).await;
    let message = ask("/health/ready").await.refused(503, "not_ready");
    assert_eq!(message, "not ready: the replica is draining");
    assert_eq!(ask("/health/live").await.status, StatusCode::OK);
    node.process.kill().await;
}

/// A sample of the Prometheus text format: name, labels, value.
type Sample<'a> = (&'a str, &'a str, f64);

/// Parses the text format and checks it: types before samples, names, escapes, values.
fn parse(text: &str) -> (BTreeMap<&str, &str>, Vec<Sample<'_>>) {
    let (mut types, mut samples) = (BTreeMap::new(), Vec::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name, kind).is_none(), "{name} has two types");
        } else if let Some(rest) = line.strip_prefix("# ") {
            assert!(rest.starts_with("HELP ") && rest.split(' ').count() > 2, "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').map_or((series, ""), |(name, labels)| (name, labels));
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
            assert!(labels.is_empty() || (labels.ends_with("\"}") && labels.contains("=\"")), "{line}");
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            let family = family.filter(|family| types.get(family) == Some(&"histogram")).unwrap_or(name);
            assert!(types.contains_key(family), "{line} comes before its type");
            samples.push((name, labels, value.parse().unwrap_or_else(|_| panic!("{line}"))));
        }
    }
    (types, samples)
}

#[tokio::test]
async fn metrics_are_prometheus_text_and_start_with_every_counter_at_zero() {
    let cluster = Cluster::start(1).await;
    let reply = cluster.get("/metrics").await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(reply.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"), "{reply:?}");
    let (types, samples) = parse(&reply.text);
    for gauge in ["mana_sync_connections_total", "mana_sync_users_connected"] {
        assert_eq!(types.get(gauge), Some(&"gauge"));
        assert!(samples.contains(&(gauge, "", 0.0)), "{gauge}");
    }
    let series: BTreeSet<(&str, &str)> = samples.iter().map(|(name, labels, _)| (*name, *labels)).collect();
    assert_eq!(series.len(), samples.len(), "a series is there twice");
    let ours = |name: &str| name.starts_with("mana_sync_") || name.starts_with("process_");
    assert!(types.keys().all(|name| ours(name)), "{types:?}");
    // Everything that has not happened yet is there, with value zero.
    for (name, labels) in [
        ("mana_sync_changes_stored_total", ""),
        ("mana_sync_pushes_total", "outcome=\"stored\"}"),
        ("mana_sync_pushes_total", "outcome=\"retried\"}"),
        ("mana_sync_auth_total", "outcome=\"refused\"}"),
        ("mana_sync_billing_total", "outcome=\"failed_open\"}"),
        ("mana_sync_wakeups_dropped_total", ""),
        ("mana_sync_push_duration_seconds_count", ""),
    ] {
        assert!(samples.contains(&(name, labels, 0.0)), "{name}{{{labels}");
    }
}

#[tokio::test]
async fn metrics_follow_what_happens() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    let push =
        json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", AT), insert("todos", "b", "Tea", AT)] });
    cluster.pushed(&user, "todo", push.clone()).await;
    cluster.pushed(&user, "todo", push).await;
    cluster.pushed(&user, "todo", json!({ "clientId": "laptop" })).await;
    cluster.push(&user, "todo", json!({ "changes": [] })).await;
    cluster.get("/sync/todo/stream").await;
    for (name, value) in [
        ("mana_sync_changes_stored_total", 2.0),
        ("mana_sync_pushes_total{outcome=\"stored\"}", 1.0),
        ("mana_sync_pushes_total{outcome=\"retried\"}", 1.0),
        ("mana_sync_pushes_total{outcome=\"empty\"}", 1.0),
        ("mana_sync_pushes_total{outcome=\"refused\"}", 1.0),
        ("mana_sync_auth_total{outcome=\"ok\"}", 4.0),
        ("mana_sync_http_responses_total{class=\"4xx\",route=\"/sync/{app}\"}", 1.0),
        ("mana_sync_http_responses_total{class=\"4xx\",route=\"/sync/{app}/stream\"}", 1.0),
        ("mana_sync_http_request_duration_seconds_count{route=\"/sync/{app}\"}", 4.0),
        ("mana_sync_jwks_fetches_total{outcome=\"ok\"}", 1.0),
    ] {
        assert_eq!(metric(&cluster, 0, name).await, value, "{name}");
    }
    parse(&cluster.get("/metrics").await.text);
}

#[tokio::test]
async fn no_metric_has_a_label_that_a_client_chooses() {
    let cluster = shared().await;
    let user = cluster.user_named("label-from-user");
    let push = json!({ "clientId": "label-from-client", "changes": [insert("label-from-table", "a", "Milk", AT)] });
    cluster.pushed(&user, "label-from-app", push).await;
    cluster.get("/label-from-path").await;
    let text = cluster.get("/metrics").await.text;
    assert!(!text.contains("label-from-"), "{text}");
}
