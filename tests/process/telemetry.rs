//! Telemetry: the metrics listed in the documentation, and logs without secrets.

use crate::support::live::{Events, NO_DELTA, Raw, TEXT, closed, metric, short_lived, socket, stream_of, woken};
use crate::support::*;
use mana_load::wakeups::WakeMessage;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A metric's type, and its labels with their fixed values.
#[derive(Debug, PartialEq, Eq, Default)]
struct Metric {
    kind: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// The table of docs/metrics.md.
fn documented() -> BTreeMap<String, Metric> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (table, _) = page.split_once("\n## ").unwrap_or((&page, ""));
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let metric = Metric { kind: cells[1].to_owned(), labels: cells[2].split(';').filter_map(label).collect() };
        (cells[0].trim_end_matches('`').to_owned(), metric)
    })
    .collect()
}

/// Parses a documented label, `name`: value, value.
fn label(text: &str) -> Option<(String, BTreeSet<String>)> {
    let (name, values) = text.split_once(':').unwrap_or((text, ""));
    let name = name.trim().trim_matches('`');
    let values = values.split(',').map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    (!name.is_empty()).then(|| (name.to_owned(), values.collect()))
}

/// Parses the metrics that a replica serves.
fn exposed(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            metrics.insert(name.to_owned(), Metric { kind: kind.to_owned(), ..Metric::default() });
        }
        let Some((name, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) else { continue };
        let labels = labels.rsplit_once('}').unwrap().0.split(',').filter_map(|label| label.split_once('='));
        for (label, value) in labels.filter(|(label, _)| *label != "le") {
            let family = name.strip_suffix("_bucket").or(name.strip_suffix("_sum")).or(name.strip_suffix("_count"));
            let family = family.filter(|family| metrics.contains_key(*family)).unwrap_or(name).to_owned();
            let metric = metrics.get_mut(&family).unwrap_or_else(|| panic!("no type before {line}"));
            metric.labels.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
        }
    }
    metrics
}

#[tokio::test]
async fn every_metric_of_a_replica_is_documented_and_the_other_way_round() {
    let cluster = Cluster::start(1).await;
    let reply = cluster.get("/metrics").await;
    let mut exposed = exposed(&reply.text);
    // Documented in prose, because they are the same for every program.
    exposed.retain(|name, _| !name.starts_with("process_"));
    let mut documented = documented();
    for (name, metric) in &mut documented {
        for (label, values) in metric.labels.iter_mut().filter(|(_, values)| values.is_empty()) {
            *values = exposed.get(name).and_then(|exposed| exposed.labels.get(label).cloned()).unwrap_or_default();
        }
    }
    let names = |metrics: &BTreeMap<String, Metric>| metrics.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&documented), names(&exposed));
    for (name, metric) in &documented {
        assert_eq!(metric, &exposed[name], "{name}");
    }
}

#[tokio::test]
async fn what_a_process_costs_is_exposed() {
    let cluster = Cluster::start(1).await;
    let text = cluster.get("/metrics").await.text;
    for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_threads"] {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
        assert!(line.trim().parse::<f64>().unwrap() > 0.0 || name.contains("cpu"), "{name}{line}");
    }
    // The usage of the whole server's queue, which other tests may fill.
    let usage = metric(&cluster, 0, "mana_sync_notification_queue_usage_ratio").await;
    assert!((0.0..=1.0).contains(&usage), "{usage}");
}

#[tokio::test]
async fn answers_carry_the_id_of_their_request() {
    let cluster = shared().await;
    let user = cluster.user();
    let own = cluster.request(&user, Method::POST, "/sync/todo").header("X-Request-Id", "7f3a.b-1").json(&json!({}));
    let refused = Reply::to(own).await;
    assert_eq!((refused.status, refused.header("x-request-id")), (StatusCode::BAD_REQUEST, Some("7f3a.b-1")));
    let ids: BTreeSet<String> = [cluster.get("/health").await, cluster.get("/health").await]
        .iter()
        .map(|reply| reply.header("x-request-id").unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
    let odd = cluster.request(&user, Method::GET, "/nowhere").header("X-Request-Id", "a\"b c");
    assert_ne!(Reply::to(odd).await.header("x-request-id"), Some("a\"b c"));
}

/// A value that users store, which must never be logged.
const VALUE: &str = "the-users-secret-value";

/// Sends requests of every kind that succeed, and of every kind that fail.
async fn load(cluster: &Cluster, user: &User) {
    let push = |body: Value| cluster.push_raw(user, "todo", body.to_string());
    let change = |data: Value| json!({ "clientId": "laptop", "since": NO_DELTA, "changes": [data] });
    let at = "2024-01-01T10:00:00.000Z";
    assert_eq!(push(change(insert("tasks", "1", VALUE, at))).await.status, StatusCode::OK);
    for odd in [
        json!(VALUE),
        json!({ "clientId": "laptop", "since": VALUE, "changes": [] }),
        change(json!({ "table": VALUE, "id": 7, "op": VALUE })),
        change(json!({ "table": "tasks", "id": "1", "op": VALUE })),
        change(update("tasks", "1", "title", VALUE, VALUE)),
        change(insert("tasks", "2", "\u{0}", at)),
    ] {
        let status = push(odd.clone()).await.status;
        assert!(status.is_client_error(), "{status}: {odd}");
    }
    // A number that is valid in JSON but not in PostgreSQL.
    let number =
        change(insert("tasks", "3", "HUGE", at)).to_string().replace("\"HUGE\"", &format!("1e{}", "9".repeat(7)));
    assert!(cluster.push_raw(user, "todo", number).await.status.is_client_error());
    assert!(cluster.push_raw(user, "todo", format!("{{\"{VALUE}")).await.status.is_client_error());
    let pull = format!("/sync/todo/pull?collection=tasks&since={VALUE}");
    assert!(Reply::to(cluster.request(user, Method::GET, &pull)).await.status.is_client_error());
    for authorization in [format!("Bearer {}x", user.token), format!("Bearer {VALUE}"), "Basic eA==".to_owned()] {
        assert_eq!(cluster.get_as(&authorization, "/sync/todo/stream").await.status, StatusCode::UNAUTHORIZED);
    }
    let mut raw = Raw::websocket(cluster.url(0), "/ws", 1 << 20).await;
    raw.send(TEXT, json!({ "type": "auth", "token": format!("{}x", user.token) }).to_string().as_bytes()).await;
    raw.until_closed().await;
    let mut expiring = socket(cluster, 0, &short_lived(cluster, user, 5), None, None).await;
    assert_eq!(woken(&mut expiring).await.1, ["tasks"]);
    let told = expiring.next(TIMEOUT).await.unwrap();
    assert!(matches!(told, WakeMessage::Error { .. }), "{told:?}");
    closed(&mut expiring).await;
}

#[tokio::test]
async fn logs_tell_no_token_no_user_and_no_value_whatever_is_sent_and_whatever_fails() {
    let mut postgres = mana_dev::TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let settings = [
        ("RUST_LOG", "info"),
        ("DATABASE_ACQUIRE_TIMEOUT_MS", "3000"),
        ("BILLING_CACHE_MS", "1"),
        ("BILLING_RETRY_MS", "1"),
        // This machine may not allow more files to be open.
        ("MAX_CONNECTIONS", "100"),
        ("MANA_CREDITS_URL", "http://127.0.0.1:9"),
    ];
    let cluster = Cluster::start_on(&postgres.server().admin_url(), 1, &settings).await;
    let user = cluster.user();
    load(&cluster, &user).await;
    let quiet = cluster.nodes[0].log();
    postgres.server_mut().kill().await.unwrap();
    let reply = cluster.push_raw(&user, "todo", push_of(VALUE)).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    let request_id = reply.header("x-request-id").unwrap().to_owned();
    cluster.nodes[0].process.terminate(TIMEOUT).await.unwrap();

    let log = cluster.nodes[0].log();
    let signature = user.token.rsplit('.').next().unwrap();
    for secret in [user.id.as_str(), user.token.as_str(), signature, VALUE, SERVICE_KEY, "laptop"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for line in &lines {
        for member in ["timestamp", "level", "message", "target"] {
            assert!(line[member].is_string(), "no {member}: {line}");
        }
    }
    let refused = lines.iter().find(|line| line["request_id"] == request_id.as_str()).expect(&log);
    assert_eq!(refused["level"], "WARN", "{refused}");
    assert!(refused["error"].as_str().unwrap().starts_with("the database cannot be used at the moment"), "{refused}");
    assert!(quiet.contains("credits service"), "its failures name a URL with the user in it: {quiet}");
    // What clients send must not alert anybody: the only warnings are about the credits service and, once, about the
    // unset audience.
    let disturbing = |line: &&str| line.contains("\"WARN\"") || line.contains("\"ERROR\"");
    let is_expected = |line: &&str| line.contains("credits service") || line.contains("JWT_AUDIENCE is not set");
    let loud: Vec<&str> = quiet.lines().filter(disturbing).filter(|line| !is_expected(line)).collect();
    assert!(loud.is_empty(), "{loud:#?}");
}

fn push_of(value: &str) -> String {
    json!({ "clientId": "laptop", "since": NO_DELTA, "changes": [insert("tasks", "9", value, "2024-01-01T10:00:00.000Z")] })
        .to_string()
}

#[tokio::test]
async fn lines_within_a_sampled_request_have_the_ids_of_trace_and_request() {
    let settings = [
        // No collector listens there: traces are created anyway.
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
        ("RUST_LOG", "mana_sync=debug"),
    ];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    let trace = uuid::Uuid::new_v4().simple().to_string();
    for flags in ["00", "01"] {
        let push = cluster.request(&user, Method::POST, "/sync/todo").header("X-Request-Id", format!("flags-{flags}"));
        let push = push.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-{flags}"));
        let push = push.header("Content-Type", "application/json").body(push_of(VALUE));
        assert_eq!(Reply::to(push).await.status, StatusCode::OK);
    }
    let access = async |flags: &str| {
        let log = cluster.nodes[0].log();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
        let id = format!("flags-{flags}");
        lines.into_iter().find(|line| line["request_id"] == id.as_str() && line["message"] == "answered").unwrap()
    };
    let (plain, sampled) = (access("00").await, access("01").await);
    assert_eq!((&plain["trace_id"], &sampled["trace_id"]), (&Value::Null, &json!(trace)));
    assert_eq!(sampled["span_id"].as_str().unwrap().len(), 16);
    assert_eq!((&sampled["route"], &sampled["status"]), (&json!("/sync/{app}"), &json!(200)));
}

#[tokio::test]
async fn streams_are_measured_from_commit_to_written_and_apps_are_told_apart_that_are_named() {
    let cluster = Cluster::start_with(1, &[("METRIC_APPS", "todo,notes")]).await;
    let user = cluster.user();
    let push = async |app: &str, id: &str| {
        let change = insert("tasks", id, VALUE, "2024-01-01T10:00:00.000Z");
        cluster.pushed(&user, app, json!({ "clientId": "laptop", "since": NO_DELTA, "changes": [change] })).await;
    };
    push("todo", "backlog").await;
    let mut stream = Events::open(stream_of(&cluster, 0, &user, "collections=tasks")).await;
    stream.backlog().await;
    let measured = async || metric(&cluster, 0, "mana_sync_stream_delivery_seconds_count").await;
    assert_eq!(measured().await, 0.0, "a backlog is none of it");
    push("todo", "live").await;
    stream.until("live").await;
    eventually("it is measured", async || measured().await == 1.0).await;
    assert!(metric(&cluster, 0, "mana_sync_stream_delivery_seconds_sum").await < 30.0);
    for app in ["made-up-1", "made-up-2"] {
        push(app, "1").await;
    }
    for (app, count) in [("todo", 2.0), ("notes", 0.0), ("other", 2.0)] {
        for name in ["pushes", "changes"] {
            let series = format!("mana_sync_app_{name}_total{{app=\"{app}\"}}");
            assert_eq!(metric(&cluster, 0, &series).await, count, "{series}");
        }
    }
    assert!(!cluster.get("/metrics").await.text.contains("made-up"));
}

/// Starts a server that records the requested paths with their keys, and gives this answer.
async fn noting(answer: impl Fn() -> axum::response::Response + Clone + Send + Sync + 'static) -> (String, Asked) {
    let asked = Asked::default();
    let noted = asked.clone();
    let handler = move |request: axum::extract::Request| {
        let key = request.headers().get("api-key").map(|key| key.to_str().unwrap().to_owned());
        noted.lock().unwrap().push((request.uri().path().to_owned(), key));
        std::future::ready(answer())
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(handler)).await });
    (url, asked)
}

type Asked = std::sync::Arc<std::sync::Mutex<Vec<(String, Option<String>)>>>;

/// The collector's key must not be sent to anyone else.
#[tokio::test]
async fn where_a_collector_redirects_nothing_is_sent() {
    for status in [302, 307, 308] {
        let (elsewhere, stolen) = noting(|| axum::response::Response::new("".into())).await;
        let redirect = move || {
            let answer =
                axum::http::Response::builder().status(status).header("location", format!("{elsewhere}/stolen"));
            answer.body("".into()).unwrap()
        };
        let (collector, asked) = noting(redirect).await;
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret"),
            ("OTEL_TRACES_SAMPLER", "always_on"),
            ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        ];
        let cluster = Cluster::start_with(1, &settings).await;
        let user = cluster.user();
        cluster.pulled(&user, "todo", "tasks", BEGINNING, None).await;
        let spans = "mana_sync_trace_spans_total";
        eventually(spans, async || metric(&cluster, 0, &format!("{spans}{{outcome=\"failed\"}}")).await >= 1.0).await;
        assert_eq!(metric(&cluster, 0, &format!("{spans}{{outcome=\"exported\"}}")).await, 0.0, "{status}");
        let with_key = ("/v1/traces".to_owned(), Some("s3cret".to_owned()));
        assert!(asked.lock().unwrap().contains(&with_key), "{status}: {asked:?}");
        assert!(stolen.lock().unwrap().is_empty(), "{status}: {stolen:?}");
    }
}
