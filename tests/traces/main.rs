//! One trace from the push on one replica to the deliveries on the others, and no trace if none is sampled.

#[path = "../support/mod.rs"]
mod support;

mod callers;
mod collector;
mod cost;
mod exemplars;
mod slow;

use collector::{Collector, Span};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::live::{Events, NO_DELTA, metric, socket, stream_of, woken};
use support::*;

const SAMPLED: &str = "01";
const NOT_SAMPLED: &str = "00";

/// A caller's trace: its id, the caller's span, and the header with both.
struct Caller {
    trace: String,
    span: String,
    header: String,
}

fn caller(flags: &str) -> Caller {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let (trace, span) = (id.clone(), id[..16].to_owned());
    Caller { header: format!("00-{trace}-{span}-{flags}"), trace, span }
}

fn body(device: &str, id: &str) -> Value {
    json!({ "clientId": device, "since": NO_DELTA, "changes": [insert("tasks", id, "secret title", "2024-01-01T10:00:00.000Z")] })
}

/// Pushes to replica 0 as part of the caller's trace.
async fn push(cluster: &Cluster, user: &User, caller: &Caller, body: Value) -> Reply {
    let request = cluster.request(user, Method::POST, "/sync/todo").header("traceparent", &caller.header);
    let reply = Reply::to(request.json(&body)).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    reply
}

/// Opens a socket and a stream on replica 1, sends a sampled push to replica 0, and checks what the collector receives.
async fn tells_one_story(collector: Collector, protocol: &str) {
    let settings = [&collector.settings()[..], &[("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)]].concat();
    let cluster = Cluster::start_with(2, &settings).await;
    let user = cluster.user();
    let mut socket = socket(&cluster, 1, &user, None, Some("phone")).await;
    let mut stream = Events::open(stream_of(&cluster, 1, &user, "collections=tasks")).await;
    stream.backlog().await;

    let caller = caller(SAMPLED);
    push(&cluster, &user, &caller, body("laptop", "1")).await;
    assert_eq!(woken(&mut socket).await.1, ["tasks"]);
    assert_eq!(stream.delta().await.ids(), ["1"]);

    let spans = &collector.spans;
    let request = spans.find("request", |span| span.kind == SpanKind::Server).await;
    assert_eq!((&request.trace, &request.parent), (&caller.trace, &caller.span), "continued");
    assert_eq!(request.name, "POST /sync/{app}");
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/sync/{app}"),
        ("url.path", "/sync/todo"),
        ("url.scheme", "http"),
        ("http.response.status_code", "200"),
        ("error.type", ""),
    ] {
        assert_eq!(request.attribute(name), value, "{name}");
    }
    let is_the_push = (request.trace.clone(), request.id.clone());

    let is_stored = |span: &Span| span.kind == SpanKind::Client && span.name.starts_with("INSERT");
    let stored = spans.find("statement", is_stored).await;
    assert_eq!((&stored.trace, &stored.parent), (&request.trace, &request.id));
    assert_eq!(stored.name, "INSERT sync_heads sync_changes");
    assert_eq!(stored.attribute("db.system.name"), "postgresql");
    assert_eq!(stored.attribute("db.operation.name"), "INSERT");
    assert_eq!(stored.attribute("db.query.summary"), stored.name);

    let sent = spans.find("send", |span| span.kind == SpanKind::Producer).await;
    assert_eq!((sent.name.as_str(), &sent.trace), ("send mana_sync", &request.trace));
    assert_eq!(sent.links, std::slice::from_ref(&is_the_push));
    assert_eq!(sent.attribute("messaging.system"), "postgresql");
    assert_eq!(sent.attribute("messaging.operation.type"), "send");

    let delivered = |replica: &'static str| {
        spans.find(replica, move |span| span.kind == SpanKind::Consumer && span.replica() == replica)
    };
    let there = delivered("replica-2").await;
    assert_eq!((there.name.as_str(), &there.trace), ("process mana_sync", &request.trace));
    assert_eq!(there.links, [is_the_push]);
    assert_eq!(there.attribute("messaging.destination.name"), "mana_sync");
    assert_eq!(there.attribute("mana_sync.sessions"), "2", "the socket and the stream");
    assert!(there.nanos < 5_000_000_000, "a delivery's span ends though the sessions go on: {there:?}");
    for span in [&request, &stored, &sent] {
        assert_eq!((span.replica(), span.resource["service.name"].as_str()), ("replica-1", "mana-sync"));
    }
    assert!(spans.all().iter().all(|span| !span.failed));
    for (span, number) in [
        (&request, "http.response.status_code"),
        (&sent, "messaging.batch.message_count"),
        (&there, "mana_sync.sessions"),
    ] {
        assert!(span.numbers.contains(number), "{number} is a text: {span:?}");
    }
    for span in spans.all() {
        assert_numbers_are_numbers(&span);
    }
    assert_nothing_of_the_user(&spans.all(), &user);
}

/// Every numeric attribute must be a number, except for codes that the conventions define as strings.
#[track_caller]
fn assert_numbers_are_numbers(span: &Span) {
    for (name, value) in &span.attributes {
        let is_text = ["db.response.status_code", "error.type"].contains(&name.as_str());
        let is_number = !is_text && value.parse::<f64>().is_ok();
        assert_eq!(span.numbers.contains(name), is_number, "{name}={value:?}: {span:?}");
    }
}

#[track_caller]
fn assert_nothing_of_the_user(spans: &[Span], user: &User) {
    let text = format!("{spans:?}");
    for secret in [user.id.as_str(), user.token.as_str(), "secret title", "laptop"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[tokio::test]
async fn a_sampled_push_is_one_story_from_its_caller_to_the_other_replica() {
    tells_one_story(Collector::http().await, "http/protobuf").await;
    tells_one_story(Collector::grpc().await, "grpc").await;
}

#[tokio::test]
async fn what_a_request_waits_for_and_the_page_that_a_stream_reads_have_spans() {
    let collector = Collector::http().await;
    let cluster = Cluster::start_with(2, &collector.settings()).await;
    let user = cluster.user();
    let caller = caller(SAMPLED);
    push(&cluster, &user, &caller, body("laptop", "1")).await;
    let mut stream = Events::open(stream_of(&cluster, 1, &user, "collections=tasks")).await;
    stream.backlog().await;
    push(&cluster, &user, &caller, body("laptop", "2")).await;
    stream.until("2").await;
    let spans = &collector.spans;
    let asked = spans.find("the credits service", |span| span.name == "wait for the credits service").await;
    assert_eq!((&asked.trace, asked.kind), (&caller.trace, SpanKind::Internal));
    let request = spans.find("its request", |span| span.id == asked.parent).await;
    assert_eq!(request.name, "POST /sync/{app}");
    let page = spans.find("the page", |span| span.name == "read a page").await;
    assert_eq!((&page.trace, page.replica(), page.kind), (&caller.trace, "replica-2", SpanKind::Internal));
    let delivery = spans.find("its delivery", |span| span.id == page.parent).await;
    assert_eq!((delivery.kind, delivery.replica()), (SpanKind::Consumer, "replica-2"));
}

#[tokio::test]
async fn a_push_to_a_log_that_this_replica_has_read_does_not_ask_whether_it_makes_an_app() {
    let collector = Collector::http().await;
    let cluster = Cluster::start_with(2, &collector.settings()).await;
    for has_read in [false, true] {
        let (user, caller) = (cluster.user(), caller(SAMPLED));
        push(&cluster, &user, &self::caller(NOT_SAMPLED), body("laptop", "1")).await;
        if has_read {
            let pull = "/sync/todo/pull?collection=tasks&since=1970-01-01T00:00:00.000Z";
            assert_eq!(Reply::to(cluster.request_to(1, &user, Method::GET, pull)).await.status, 200);
        }
        let request = cluster.request_to(1, &user, Method::POST, "/sync/todo").header("traceparent", &caller.header);
        assert_eq!(Reply::to(request.json(&body("laptop", "2"))).await.status, 200);
        // Statements end in this order, and spans are exported in it.
        let of_this = |span: &Span| span.trace == caller.trace && span.kind == SpanKind::Client;
        collector.spans.find("its statement", |span| of_this(span) && span.name.starts_with("INSERT")).await;
        let asks = |span: &Span| of_this(span) && span.name == "SELECT count sync_heads";
        assert_eq!(collector.spans.all().iter().any(asks), !has_read);
    }
}

#[tokio::test]
async fn a_notification_that_carries_many_pushes_is_linked_to_each() {
    // Not more per device than one wake-up names.
    const PUSHES: usize = 4 * mana_sync::fanout::wakeup::MAX_PUSHES;
    let collector = Collector::http().await;
    let cluster = Cluster::start_with(2, &collector.settings()).await;
    let user = cluster.user();
    let _socket = socket(&cluster, 1, &user, None, None).await;
    let callers: Vec<Caller> = (0..PUSHES).map(|_| caller(SAMPLED)).collect();
    let pushes = callers.iter().enumerate().map(|(n, caller)| {
        let device = format!("device-{}", n % 4);
        let (cluster, user) = (&cluster, &user);
        async move { push(cluster, user, caller, body(&device, &n.to_string())).await }
    });
    futures_util::future::join_all(pushes).await;

    let links_of = |kind: SpanKind, replica: &'static str| {
        let spans =
            collector.spans.all().into_iter().filter(move |span| span.kind == kind && span.replica() == replica);
        spans.flat_map(|span| span.links).collect::<Vec<_>>()
    };
    eventually("every push is linked to by a send and by a delivery", async || {
        links_of(SpanKind::Producer, "replica-1").len() >= PUSHES
            && links_of(SpanKind::Consumer, "replica-2").len() >= PUSHES
    })
    .await;
    let spans = collector.spans.all();
    let mut requests: Vec<_> =
        spans.iter().filter(|s| s.kind == SpanKind::Server).map(|s| (s.trace.clone(), s.id.clone())).collect();
    requests.sort();
    for (kind, replica) in [(SpanKind::Producer, "replica-1"), (SpanKind::Consumer, "replica-2")] {
        let mut links = links_of(kind, replica);
        links.sort();
        assert_eq!(links, requests, "each once, by {kind:?}");
    }
    for span in spans.iter().filter(|span| span.links.len() > 1) {
        assert!(span.parent.is_empty(), "what is about several is part of none of their traces: {span:?}");
    }
}

#[tokio::test]
async fn pushes_that_are_not_sampled_leave_no_span_anywhere() {
    let collector = Collector::http().await;
    let cluster = Cluster::start_with(2, &collector.settings()).await;
    let user = cluster.user();
    let mut socket = socket(&cluster, 1, &user, None, None).await;
    for id in 0..20 {
        push(&cluster, &user, &caller(NOT_SAMPLED), body("laptop", &id.to_string())).await;
        woken(&mut socket).await;
    }
    // Then a sampled push: once its delivery has arrived, theirs would have, too.
    let last = caller(SAMPLED);
    push(&cluster, &user, &last, body("laptop", "last")).await;
    woken(&mut socket).await;
    collector.spans.find("delivery", |span| span.kind == SpanKind::Consumer).await;
    collector.spans.find("request", |span| span.kind == SpanKind::Server).await;
    let strangers: Vec<Span> = collector.spans.all().into_iter().filter(|span| span.trace != last.trace).collect();
    assert!(strangers.is_empty(), "{strangers:#?}");
}

#[tokio::test]
async fn the_upgrade_of_a_socket_has_a_span_that_ends_at_101_and_probes_have_none() {
    let collector = Collector::http().await;
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()), ("OTEL_TRACES_SAMPLER", "always_on")];
    let cluster = Cluster::start_with(1, &[&settings[..], &[("OTEL_BSP_SCHEDULE_DELAY", "50")]].concat()).await;
    let user = cluster.user();
    let _socket = socket(&cluster, 0, &user, Some("todo"), None).await;
    assert_eq!(cluster.get("/health").await.status, StatusCode::OK);
    assert_eq!(cluster.get("/metrics").await.status, StatusCode::OK);
    assert_eq!(cluster.get("/nowhere").await.status, StatusCode::NOT_FOUND);
    let upgrade = collector.spans.find("upgrade", |span| span.name == "GET /ws/{app}").await;
    assert_eq!(upgrade.attribute("http.response.status_code"), "101");
    // Unknown paths have no route: otherwise, each guess would create a name.
    collector.spans.find("guess", |span| span.name == "GET" && span.attribute("url.path") == "/nowhere").await;
    let paths: Vec<String> = collector.spans.all().iter().map(|span| span.attribute("url.path").to_owned()).collect();
    assert!(!paths.iter().any(|path| path.starts_with("/health") || path == "/metrics"), "{paths:?}");
}

/// The time that this many sampled pushes take, one after another.
async fn time_pushes(cluster: &Cluster, user: &User, round: usize, count: usize) -> Duration {
    let started = Instant::now();
    for n in 0..count {
        push(cluster, user, &caller(SAMPLED), body("laptop", &format!("{round}-{n}"))).await;
    }
    started.elapsed()
}

/// Pushes through a replica whose collector is unusable, and through one whose collector works: the speed must be the
/// same, and memory must not grow once the queue is full.
async fn costs_nothing(url: &str, protocol: &str) {
    let useful = if protocol == "grpc" { Collector::grpc().await } else { Collector::http().await };
    let start = async |url: &str| {
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_TRACES_SAMPLER", "always_on"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "128"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64"),
            ("OTEL_BSP_SCHEDULE_DELAY", "20"),
            ("DRAIN_DELAY_MS", "0"),
            ("DRAIN_WINDOW_MS", "0"),
        ];
        Cluster::start_with(1, &settings).await
    };
    let (without, with) = (start(url).await, start(&useful.url).await);
    let (alice, bob) = (without.user(), with.user());
    let (mut times, mut useful_times, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    // Many short rounds in turns: in some of them, the machine does nothing else.
    for round in 0..24 {
        times.push(time_pushes(&without, &alice, round, 25).await);
        useful_times.push(time_pushes(&with, &bob, round, 25).await);
        memory.push(metric(&without, 0, "process_resident_memory_bytes").await);
    }
    let (best, useful_best) = (times.iter().min().unwrap(), useful_times.iter().min().unwrap());
    println!("best of 24 x 25 pushes: {best:?}, with a useful collector {useful_best:?}; resident {memory:?}");
    assert!(*best < *useful_best * 2, "{best:?} against {useful_best:?}");
    let grown = memory[23] - memory[7];
    assert!(grown < 8e6, "{grown} bytes more after 400 more pushes: {memory:?}");

    let stopping = Instant::now();
    without.nodes[0].process.terminate(TIMEOUT).await.unwrap();
    assert_soon(&without, Duration::from_secs(10), "it stops", stopping.elapsed()).await;
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_nothing() {
    let collector = Collector::silent().await;
    costs_nothing(&collector.url, "http/protobuf").await;
    costs_nothing(&collector.url, "grpc").await;
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_nothing() {
    let gone = Collector::silent().await.url.clone();
    costs_nothing(&gone, "http/protobuf").await;
    costs_nothing(&gone, "grpc").await;
}

/// Stops a replica that would not send its spans for another minute.
async fn the_last_spans_arrive(collector: Collector, protocol: &str) {
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_BSP_SCHEDULE_DELAY", "60000"),
        ("DRAIN_DELAY_MS", "0"),
        ("DRAIN_WINDOW_MS", "0"),
    ];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    let caller = caller(SAMPLED);
    push(&cluster, &user, &caller, body("laptop", "1")).await;
    assert!(collector.spans.all().is_empty());
    cluster.nodes[0].process.terminate(TIMEOUT).await.unwrap();
    let arrived = collector.spans.all();
    assert!(arrived.iter().any(|span| span.trace == caller.trace && span.kind == SpanKind::Server), "{arrived:#?}");
}

#[tokio::test]
async fn the_last_spans_are_sent_before_the_process_ends() {
    the_last_spans_arrive(Collector::http().await, "http/protobuf").await;
    the_last_spans_arrive(Collector::grpc().await, "grpc").await;
}
