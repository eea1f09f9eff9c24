//! G6: configured limits hold; overload is refused clearly and passes on its own.

use crate::support::*;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mana_load::wakeups::{WakeMessage, Wakeups};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn connect(cluster: &Cluster) -> TcpStream {
    TcpStream::connect(cluster.url(0).trim_start_matches("http://")).await.unwrap()
}

/// Reads everything until the server closes.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    tokio::time::timeout(TIMEOUT, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

async fn metric(cluster: &Cluster, line_start: &str) -> f64 {
    let text = cluster.http.get(format!("{}/metrics", cluster.url(0))).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(line_start)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_connection_that_finds_no_place_is_answered_503_and_a_place_that_is_given_up_is_taken() {
    let cluster = Cluster::start_with(1, &[("MAX_CONNECTIONS", "12")]).await;
    let mut held = Vec::new();
    let refused = loop {
        let mut stream = connect(&cluster).await;
        // An unfinished head takes a slot; a finished one is answered.
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let answer = read_all(&mut stream).await;
        if !answer.starts_with("HTTP/1.1 200 ") {
            break answer;
        }
        let mut stream = connect(&cluster).await;
        stream.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
        held.push(stream);
        // One that arrived before its predecessor was gone is refused itself, and does not count.
        assert!(held.len() <= 50, "nobody is refused");
    };
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 1\r\n"), "{refused}");
    let (_, body) = refused.split_once("\r\n\r\n").unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["error"], "busy");
    let live = cluster.http.get(format!("{}/health/live", cluster.url(0))).send().await.unwrap();
    assert_eq!(live.status(), 200, "a replica that is full is not ill");
    held.clear();
    eventually("a place is free", async || {
        let metrics = cluster.http.get(format!("{}/metrics", cluster.url(0))).send().await;
        metrics.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    assert!(metric(&cluster, "mana_sync_refused_total{limit=\"connections\"}").await >= 1.0);
}

#[tokio::test]
async fn a_push_for_whose_body_there_is_no_room_is_answered_503_until_there_is() {
    let settings = [("MAX_PUSH_BYTES_IN_FLIGHT", "1048576"), ("QUEUE_TIMEOUT_MS", "2000")];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    let mut slow = connect(&cluster).await;
    let head = format!(
        "POST /sync/todo HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 1048576\r\nconnection: close\r\n\r\n{{",
        user.token
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(&vec![b' '; 1_048_570]).await.unwrap();
    // Another push could meanwhile take what the body still needs.
    eventually("the body holds all the memory", async || metric(&cluster, "mana_sync_push_bytes").await >= 1_048_576.0)
        .await;
    let push = || json!({ "clientId": "a", "changes": [insert("t", "r", "x", "2024-01-01T10:00:00.000Z")] });
    let (status, answer) = cluster.push(&user, "todo", push()).await;
    assert_eq!((status.as_u16(), answer["error"].as_str()), (503, Some("busy")), "{answer}");
    // It is not the client's fault, so the objective for pushes counts it.
    assert!(metric(&cluster, "mana_sync_pushes_total{outcome=\"failed\"}").await >= 1.0);
    assert_eq!(metric(&cluster, "mana_sync_pushes_total{outcome=\"refused\"}").await, 0.0);
    slow.write_all(b"   } ").await.unwrap();
    assert!(read_all(&mut slow).await.starts_with("HTTP/1.1 400 "), "an object without a client is refused");
    let (status, answer) = cluster.push(&user, "todo", push()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(cluster.stored(&user).await, 1);
}

/// The objective for pushes must notice this: nothing else does.
#[tokio::test]
async fn a_push_whose_answer_finds_no_turn_among_reads_counts_as_failed() {
    // One user may read on two of eight connections.
    let settings = [("DATABASE_POOL_SIZE", "8"), ("DATABASE_ACQUIRE_TIMEOUT_MS", "2000")];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    let mut transaction = cluster.pool.begin().await.unwrap();
    sqlx::query("lock table sync_changes in access exclusive mode").execute(&mut *transaction).await.unwrap();
    let ask = || cluster.push(&user, "todo", json!({ "clientId": "a", "changes": [] }));
    let mut asking: FuturesUnordered<_> = (0..4).map(|_| ask()).collect();
    for _ in 0..2 {
        let (status, answer) = asking.next().await.unwrap();
        assert_eq!((status.as_u16(), &answer["error"]), (503, &json!("busy")), "{answer}");
    }
    transaction.rollback().await.unwrap();
    while let Some((status, answer)) = asking.next().await {
        assert_eq!(status, 200, "{answer}");
    }
    for (outcome, pushes) in [("failed", 2.0), ("refused", 0.0), ("empty", 2.0)] {
        let counted = metric(&cluster, &format!("mana_sync_pushes_total{{outcome=\"{outcome}\"}}")).await;
        assert_eq!(counted, pushes, "{outcome}");
    }
}

#[tokio::test]
async fn a_user_has_a_bounded_number_of_sockets_and_streams() {
    let cluster = Cluster::start_with(1, &[("MAX_SESSIONS_PER_USER", "2")]).await;
    let user = cluster.user();
    let first = Wakeups::connect(cluster.url(0), None, &user.token, None).await.unwrap();
    let stream = cluster.request(&user, Method::GET, "/sync/todo/stream").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let refused = cluster.request(&user, Method::GET, "/sync/todo/stream").send().await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    let mut socket = Wakeups::open(cluster.url(0), None).await.unwrap();
    socket.send(&json!({ "type": "auth", "token": user.token }).to_string()).await.unwrap();
    let answer = socket.next(TIMEOUT).await.unwrap();
    assert!(matches!(answer, WakeMessage::Closed { code: Some(1013), .. }), "{answer:?}");
    drop(first);
    eventually("a place is free", async || {
        let stream = cluster.request(&user, Method::GET, "/sync/todo/stream").send().await.unwrap();
        stream.status() == 200
    })
    .await;
    let other = Wakeups::connect(cluster.url(0), None, &cluster.user().token, None).await;
    assert!(other.is_ok(), "other users are not concerned");
}

#[tokio::test]
async fn sockets_that_do_not_authenticate_are_bounded() {
    let cluster = Cluster::start_with(1, &[("MAX_UNAUTHENTICATED", "2")]).await;
    let mut unauthenticated =
        [Wakeups::open(cluster.url(0), None).await.unwrap(), Wakeups::open(cluster.url(0), None).await.unwrap()];
    assert!(Wakeups::open(cluster.url(0), None).await.is_err(), "a third one is refused");
    assert_eq!(metric(&cluster, "mana_sync_refused_total{limit=\"unauthenticated\"}").await, 1.0);
    let user = cluster.user();
    unauthenticated[0].authenticate(&user.token, None).await.unwrap();
    assert_eq!(unauthenticated[0].next(TIMEOUT).await.unwrap(), WakeMessage::AuthOk);
    assert!(Wakeups::open(cluster.url(0), None).await.is_ok(), "one that has authenticated makes room");
}

#[tokio::test]
async fn pushes_that_wait_for_their_log_take_nothing_from_other_users() {
    let settings = [("DATABASE_POOL_SIZE", "4"), ("QUEUE_TIMEOUT_MS", "5000")];
    let cluster = Cluster::start_with(1, &settings).await;
    let (noisy, other) = (cluster.user(), cluster.user());
    let push = |n: usize| json!({ "clientId": "a", "changes": [insert("t", &n.to_string(), "x", "2024-01-01T10:00:00.000Z")] });
    assert_eq!(cluster.push(&noisy, "todo", push(0)).await.0, 200);
    // The lock on the head of the log, as a slow push holds it.
    let mut transaction = cluster.pool.begin().await.unwrap();
    sqlx::query("select 1 from sync_heads where user_id = $1 for update")
        .bind(&noisy.id)
        .execute(&mut *transaction)
        .await
        .unwrap();
    let waiting = futures_util::future::join_all((1..20).map(|n| cluster.push(&noisy, "todo", push(n))));
    let others = async {
        for n in 0..5 {
            let (status, answer) = cluster.push(&other, "todo", push(n)).await;
            assert_eq!(status, 200, "{answer}");
        }
    };
    let release = async {
        others.await;
        transaction.rollback().await.unwrap();
    };
    let (answers, ()) = futures_util::future::join(waiting, release).await;
    let stored = answers.iter().filter(|(status, _)| *status == 200).count() as i64;
    assert!(answers.iter().all(|(status, answer)| *status == 200 || answer["error"] == "busy"), "{answers:?}");
    assert_eq!(cluster.stored(&noisy).await, stored + 1);
}

/// The head of a push, and the first byte of its body.
fn begin_push(user: &User, length: usize) -> String {
    format!(
        "POST /sync/todo HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{{",
        user.token
    )
}

fn push_of(changes: usize, text: &str) -> serde_json::Value {
    let changes: Vec<_> = (0..changes).map(|n| insert("t", &n.to_string(), text, "2024-01-01T10:00:00.000Z")).collect();
    json!({ "clientId": "a", "since": live::NO_DELTA, "changes": changes })
}

#[tokio::test]
async fn many_small_bodies_of_one_user_that_stall_keep_nobody_elses_from_being_read() {
    // Small bodies share 2 MiB: as much as 256 of these take.
    let settings = [("MAX_PUSH_BYTES_IN_FLIGHT", "16777216"), ("QUEUE_TIMEOUT_MS", "2000")];
    let cluster = Cluster::start_with(1, &settings).await;
    let (noisy, other) = (cluster.user(), cluster.user());
    let mut stalled = Vec::new();
    for _ in 0..320 {
        let mut stream = connect(&cluster).await;
        stream.write_all(begin_push(&noisy, 100).as_bytes()).await.unwrap();
        stalled.push(stream);
    }
    eventually("all of them hold memory", async || metric(&cluster, "mana_sync_push_bytes").await >= 320.0 * 8192.0)
        .await;
    for (changes, text) in [(1, "x".to_owned()), (200, "x".repeat(50)), (30, "x".repeat(1_500))] {
        let (status, answer) = cluster.push(&other, "todo", push_of(changes, &text)).await;
        assert_eq!(status, 200, "{answer}");
    }
    let (status, answer) = cluster.push(&noisy, "todo", push_of(1, "x")).await;
    assert_eq!(status, 200, "the user's own share is larger: {answer}");
    drop(stalled);
    eventually("it is given back", async || metric(&cluster, "mana_sync_push_bytes").await == 0.0).await;
}

#[tokio::test]
async fn large_bodies_that_stall_keep_no_push_of_200_changes_from_being_read() {
    let settings = [("MAX_PUSH_BYTES_IN_FLIGHT", "16777216"), ("QUEUE_TIMEOUT_MS", "2000")];
    let cluster = Cluster::start_with(1, &settings).await;
    let (large, other) = ([cluster.user(), cluster.user()], cluster.user());
    let stall = async |user: &User| {
        let mut stream = connect(&cluster).await;
        stream.write_all(begin_push(user, 3_000_000).as_bytes()).await.unwrap();
        // It may be refused while it is being sent.
        let _ = stream.write_all(&vec![b' '; 2_000_000]).await;
        stream
    };
    let mut stalled = Vec::new();
    for n in 0..8 {
        stalled.push(stall(&large[n % 2]).await);
    }
    eventually("a large one is refused", async || {
        let (status, _) = cluster.push(&other, "todo", push_of(1, &"x".repeat(3_000_000))).await;
        // Those that found no room in time have given theirs back.
        stalled.push(stall(&large[stalled.len() % 2]).await);
        status == 503
    })
    .await;
    for (changes, text) in [(200, "x".repeat(50)), (30, "x".repeat(1_500)), (1, "x".repeat(60_000))] {
        let (status, answer) = cluster.push(&other, "todo", push_of(changes, &text)).await;
        assert_eq!(status, 200, "{answer}");
    }
}

#[tokio::test]
async fn pulls_that_wait_for_their_turn_hold_no_memory() {
    let settings = [("DATABASE_POOL_SIZE", "4"), ("DATABASE_ACQUIRE_TIMEOUT_MS", "30000")];
    let cluster = Cluster::start_with(1, &settings).await;
    let (noisy, other) = (cluster.user(), cluster.user());
    assert_eq!(cluster.push(&noisy, "todo", push_of(1, "x")).await.0, 200);
    let mut transaction = cluster.pool.begin().await.unwrap();
    sqlx::query("lock table sync_changes in access exclusive mode").execute(&mut *transaction).await.unwrap();
    let waiting = futures_util::future::join_all((0..60).map(|n| {
        let path = format!("/sync/todo/pull?collection=t&since={BEGINNING}");
        cluster.request(&noisy, Method::GET, &path).header("X-Client-Id", n.to_string()).send()
    }));
    let others = async {
        // Two of the noisy user read, and two of the other user.
        let pulls = (0..2).map(|_| {
            let path = format!("/sync/todo/pull?collection=t&since={BEGINNING}");
            cluster.request(&other, Method::GET, &path).send()
        });
        let look = async {
            eventually("all that may read do", async || {
                metric(&cluster, "mana_sync_stream_bytes").await >= 4.0 * 32_768.0
            })
            .await;
            assert_eq!(metric(&cluster, "mana_sync_stream_bytes").await, 4.0 * 32_768.0);
            transaction.rollback().await.unwrap();
        };
        futures_util::future::join(futures_util::future::join_all(pulls), look).await.0
    };
    let (of_noisy, of_other) = futures_util::future::join(waiting, others).await;
    for answer in of_noisy.into_iter().chain(of_other) {
        assert_eq!(answer.unwrap().status(), 200);
    }
}
