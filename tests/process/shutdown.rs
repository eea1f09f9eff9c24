//! A replica that is told to stop loses nothing and spreads its clients (G7): not ready, stop accepting, finish running
//! work, close with 1012 over the drain window, exit 0.

use crate::support::live::*;
use crate::support::proxy::{Mode, Proxy};
use crate::support::*;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longer than any test: a replica that ends anyway did not wait for it.
const NEVER: &str = "60000";
/// Maximum time of an immediate stop, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(20);

async fn one_replica(delay: &str, window: &str) -> Cluster {
    Cluster::start_with(1, &[("DRAIN_DELAY_MS", delay), ("DRAIN_WINDOW_MS", window)]).await
}

fn tell(cluster: &Cluster, signal: Signal) {
    cluster.nodes[0].process.signal(signal);
}

/// The exit code of the first replica, which must end in time.
async fn exit_code(cluster: &Cluster, within: Duration) -> Option<i32> {
    let ended = timeout(within, cluster.nodes[0].process.ended()).await;
    ended.expect("the replica must end in time").code()
}

async fn accepts(cluster: &Cluster) -> bool {
    TcpStream::connect(cluster.url(0).strip_prefix("http://").unwrap()).await.is_ok()
}

#[tokio::test]
async fn a_stopping_replica_is_not_ready_at_once_and_accepts_for_a_while_yet() {
    let cluster = one_replica("6000", "0").await;
    let user = cluster.user();
    let told = Instant::now();
    tell(&cluster, Signal::SIGTERM);
    eventually("it is not ready", async || cluster.get("/health/ready").await.status == 503).await;
    let reply = cluster.get("/health/ready").await;
    assert!(reply.refused(503, "not_ready").contains("draining"), "{reply:?}");
    assert!(reply.header("retry-after").is_some());
    assert_eq!(cluster.get("/health/live").await.status, 200, "it works: nobody must kill it");
    store(&cluster, 0, &user, "phone", &[("tasks", "a")]).await;
    let mut socket = socket(&cluster, 0, &user, None, None).await;
    store(&cluster, 0, &user, "phone", &[("tasks", "b")]).await;
    assert_eq!(woken_until(&mut socket, "tasks").await, ["tasks"]);
    assert_eq!(exit_code(&cluster, TIMEOUT).await, Some(0));
    assert!(told.elapsed() >= Duration::from_secs(6));
    assert!(!accepts(&cluster).await);
    assert_eq!(cluster.stored(&user).await, 2);
}

#[tokio::test]
async fn sockets_are_closed_with_1012_each_at_its_own_moment_of_the_window() {
    const WINDOW: Duration = Duration::from_secs(6);
    let cluster = one_replica("300", "6000").await;
    let user = cluster.user();
    let mut sockets = Vec::new();
    for n in 0..30 {
        let (url, path) = (cluster.url(0), ["/ws", "/ws/todo"][n % 2]);
        // Unauthenticated sockets count as well.
        sockets.push(match n % 3 {
            0 => Raw::websocket(url, path, 1 << 16).await,
            _ => Raw::member(url, path, &user, 1 << 16).await,
        });
    }
    let told = Instant::now();
    tell(&cluster, Signal::SIGTERM);
    let closing = sockets.into_iter().map(|mut raw| async move {
        let (first, payload) = raw.frame().await.unwrap();
        let at = told.elapsed();
        assert_eq!((first, close_code(&payload)), (CLOSE, Some(1012)));
        raw.send(CLOSE, &payload).await;
        assert_eq!(raw.rest().await, b"", "the connection ends after the answer");
        at
    });
    let times = futures_util::future::join_all(closing).await;
    let (first, last) = (*times.iter().min().unwrap(), *times.iter().max().unwrap());
    assert!(first >= Duration::from_millis(300), "not while it still accepts: {times:?}");
    assert!(last - first > WINDOW / 3 && last < WINDOW + AT_ONCE, "spread over the window: {times:?}");
    assert_eq!(exit_code(&cluster, AT_ONCE).await, Some(0));
}

#[tokio::test]
async fn streams_end_as_they_should_and_say_when_to_come_back() {
    let cluster = one_replica("0", "800").await;
    let user = cluster.user();
    store(&cluster, 0, &user, "phone", &[("tasks", "a")]).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = Events::open(stream_of(&cluster, 0, &user, "collections=tasks")).await;
        stream.backlog().await;
        streams.push(stream);
    }
    tell(&cluster, Signal::SIGTERM);
    for mut stream in streams {
        assert_eq!(stream.next().await, None);
        let last = stream.text.split_inclusive("\n\n").last().unwrap();
        let millis: u32 = last.strip_prefix("retry: ").unwrap().strip_suffix("\n\n").unwrap().parse().unwrap();
        assert!((100..=30_000).contains(&millis), "{last}");
    }
    assert_eq!(exit_code(&cluster, AT_ONCE).await, Some(0));
}

#[tokio::test]
async fn a_push_that_is_under_way_is_stored_and_answered() {
    let cluster = one_replica("0", "0").await;
    let user = cluster.user();
    let change = insert("tasks", "a", "Milk", "2024-01-01T10:00:00.000Z");
    let body = serde_json::json!({ "clientId": "phone", "changes": [change] }).to_string();
    let mut raw = Raw::connect(cluster.url(0)).await;
    let head = format!(
        "POST /sync/todo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        user.token,
        body.len()
    );
    let (early, late) = body.split_at(body.len() / 2);
    raw.write(format!("{head}{early}").as_bytes()).await;
    let asked = async || cluster.credits.requests_of(&user.id) > 0;
    eventually("the push has begun", asked).await;
    tell(&cluster, Signal::SIGTERM);
    eventually("it no longer accepts", async || !accepts(&cluster).await).await;
    raw.write(late.as_bytes()).await;
    let answer = raw.head().await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(String::from_utf8(raw.rest().await).unwrap().contains("syncedUntil"));
    assert_eq!(exit_code(&cluster, AT_ONCE).await, Some(0));
    assert_eq!(cluster.stored(&user).await, 1);
}

#[tokio::test]
async fn pushes_acknowledged_just_before_the_stop_wake_the_devices_of_other_replicas() {
    // Without periodic reconciliation: the stopping replica itself must send its wake-ups.
    let settings = [("DRAIN_DELAY_MS", "0"), ("DRAIN_WINDOW_MS", "0"), ("RECONCILE_MS", "3600000")];
    let cluster = Cluster::start_with(2, &settings).await;
    let cluster = &cluster;
    let users: Vec<User> = (0..20).map(|_| cluster.user()).collect();
    let mut sockets = Vec::new();
    for user in &users {
        sockets.push(socket(cluster, 1, user, None, None).await);
    }
    let pushes = users.iter().map(|user| store(cluster, 0, user, "phone", &[("tasks", "a"), ("lists", "b")]));
    futures_util::future::join_all(pushes).await;
    tell(cluster, Signal::SIGTERM);
    for mut socket in sockets {
        assert_eq!(woken(&mut socket).await.1, ["lists", "tasks"]);
    }
    assert_eq!(exit_code(cluster, AT_ONCE).await, Some(0));
}

#[tokio::test]
async fn pushes_answered_while_it_stops_wake_the_devices_of_other_replicas() {
    let settings = [("DRAIN_DELAY_MS", "2000"), ("DRAIN_WINDOW_MS", "0"), ("RECONCILE_MS", "3600000")];
    let cluster = Cluster::start_with(2, &settings).await;
    let user = cluster.user();
    let mut socket = socket(&cluster, 1, &user, None, None).await;
    tell(&cluster, Signal::SIGTERM);
    let mut answered = BTreeSet::new();
    for n in 0.. {
        let table = format!("table {n}");
        let change = insert(&table, "a", "T", "2024-01-01T10:00:00.000Z");
        let body = serde_json::json!({ "clientId": "phone", "since": NO_DELTA, "changes": [change] }).to_string();
        let request = cluster.request(&user, reqwest::Method::POST, "/sync/todo");
        match request.header("Content-Type", "application/json").body(body).send().await {
            Ok(response) if response.status() == 200 => answered.insert(table),
            Ok(response) => panic!("{response:?}"),
            Err(_) => break,
        };
    }
    assert!(!answered.is_empty());
    let mut seen = BTreeSet::new();
    while !answered.is_subset(&seen) {
        seen.extend(woken(&mut socket).await.1);
    }
    assert_eq!(exit_code(&cluster, AT_ONCE).await, Some(0));
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let cluster = one_replica(NEVER, NEVER).await;
    let user = cluster.user();
    let mut socket = socket(&cluster, 0, &user, None, None).await;
    tell(&cluster, Signal::SIGTERM);
    eventually("it is not ready", async || cluster.get("/health/ready").await.status == 503).await;
    tell(&cluster, Signal::SIGTERM);
    let code = exit_code(&cluster, AT_ONCE).await;
    assert!(code.is_some_and(|code| code != 0), "that is no orderly stop: {code:?}");
    assert!(socket.next(TIMEOUT).await.is_err() || !accepts(&cluster).await);
}

#[tokio::test]
async fn a_database_and_a_collector_that_answer_nothing_cannot_hold_it() {
    // Twice the total of the time limits for running work, background tasks, the pool and the last traces, one after the
    // other: this machine may be busy.
    const ALL: Duration = Duration::from_secs(36);
    let database = create_database().await;
    let address = database.parse::<url::Url>().unwrap().socket_addrs(|| None).unwrap()[0];
    let proxy = Proxy::start(address).await;
    // Connections to it are made, and nobody takes them.
    let collector = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let settings = [
        ("DRAIN_DELAY_MS", "0"),
        ("DRAIN_WINDOW_MS", "0"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_TRACES_SAMPLER", "always_on"),
    ];
    let cluster = Cluster::start_on(&proxy.url(&database), 1, &settings).await;
    let user = cluster.user();
    store(&cluster, 0, &user, "phone", &[("tasks", "a")]).await;
    proxy.set(Mode::Swallow);
    // A request waits for the database, and its connection is in use.
    let request = cluster.request(&user, reqwest::Method::POST, "/sync/todo");
    let request = request.header("Content-Type", "application/json").body(r#"{"clientId":"phone","changes":[]}"#);
    // The replica may end before it has answered.
    let push = async { drop(request.send().await) };
    let stopping = async {
        tell(&cluster, Signal::SIGTERM);
        exit_code(&cluster, ALL).await
    };
    assert_eq!(
        tokio::select! { code = stopping => code, _ = async { push.await; std::future::pending::<()>().await } => None },
        Some(0)
    );
}

#[tokio::test]
async fn an_interrupt_from_the_keyboard_stops_in_order_too() {
    let cluster = one_replica("0", "0").await;
    let user = cluster.user();
    let mut socket = socket(&cluster, 0, &user, None, None).await;
    tell(&cluster, Signal::SIGINT);
    assert_eq!(closed(&mut socket).await, Some(1012));
    // The client's half of the close.
    assert!(socket.next(TIMEOUT).await.is_ok());
    assert_eq!(exit_code(&cluster, AT_ONCE).await, Some(0));
}

#[tokio::test]
async fn a_hangup_without_a_terminal_stops_nothing() {
    let cluster = one_replica("0", "0").await;
    let user = cluster.user();
    let mut socket = socket(&cluster, 0, &user, None, None).await;
    tell(&cluster, Signal::SIGHUP);
    eventually("it says so", async || cluster.nodes[0].log().contains("SIGHUP changes nothing")).await;
    assert_eq!(cluster.get("/health/ready").await.status, 200);
    store(&cluster, 0, &user, "phone", &[("tasks", "a")]).await;
    assert_eq!(woken_until(&mut socket, "tasks").await, ["tasks"]);
    tell(&cluster, Signal::SIGTERM);
    assert_eq!(closed(&mut socket).await, Some(1012));
    assert!(socket.next(TIMEOUT).await.is_ok());
    assert_eq!(exit_code(&cluster, AT_ONCE).await, Some(0));
}

#[tokio::test]
async fn with_no_connections_it_waits_for_no_window() {
    let cluster = one_replica("0", NEVER).await;
    tell(&cluster, Signal::SIGTERM);
    assert_eq!(exit_code(&cluster, AT_ONCE).await, Some(0));
}

#[tokio::test]
async fn an_idle_connection_is_not_waited_for() {
    let cluster = one_replica("0", NEVER).await;
    let mut fresh = Raw::connect(cluster.url(0)).await;
    let mut used = Raw::connect(cluster.url(0)).await;
    used.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(used.head().await.starts_with("HTTP/1.1 200 "));
    tell(&cluster, Signal::SIGTERM);
    assert_eq!(exit_code(&cluster, AT_ONCE).await, Some(0));
    used.rest().await;
    fresh.rest().await;
}

#[tokio::test]
async fn clients_that_do_not_read_cannot_hold_it() {
    // A write waits longer than the replica has to end.
    let settings = [("DRAIN_DELAY_MS", "0"), ("DRAIN_WINDOW_MS", "0"), ("WRITE_TIMEOUT_MS", NEVER)];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    let at = "2024-01-01T10:00:00.000Z";
    let changes: Vec<_> = (0..90).map(|n| insert("tasks", &format!("{n}"), &"x".repeat(100_000), at)).collect();
    let body = serde_json::json!({ "clientId": "phone", "since": NO_DELTA, "changes": changes });
    assert_eq!(cluster.push(&user, APP, body).await.0, 200);
    let mut stream = Raw::connect_narrow(cluster.url(0), 4096).await;
    let head = format!("GET /sync/todo/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", user.token);
    stream.write(head.as_bytes()).await;
    stream.head().await;
    let _socket = Raw::member(cluster.url(0), "/ws", &user, 4096).await;
    tell(&cluster, Signal::SIGTERM);
    assert_eq!(exit_code(&cluster, AT_ONCE).await, Some(0));
}
