//! The largest changes, clients that do not read them, and clients that do not finish sending: the memory held for them
//! is bounded (G6).

use crate::epilogue::SOON;
use crate::suite::alone;
use crate::support::live::{APP, Events, Raw, metric, stream_of};
use crate::support::*;
use mana_dev::TemporaryPostgres;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Number of streams that are not read.
const UNREAD: usize = 40;
/// The length of a value whose push is just below the limit.
const LARGE: usize = (10 << 20) - 400;
/// Maximum bytes held by all streams.
const ROOM: usize = 36 << 20;
/// Maximum memory of a replica besides: reading a page holds it several times, on as many connections as the pool has,
/// and a debug build has 40 MiB to begin with.
const BESIDE: u64 = 260 << 20;

async fn push_large(cluster: &Cluster, user: &User, id: &str) {
    let change = update("tasks", id, "text", "x".repeat(LARGE), "2024-01-01T10:00:00.000Z");
    let body = json!({ "clientId": "d", "since": live::NO_DELTA, "changes": [change] }).to_string();
    assert!(body.len() > (10 << 20) - 300 && body.len() <= 10 << 20, "{}", body.len());
    let reply = cluster.push_raw(user, APP, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

fn resident(cluster: &Cluster) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.nodes[0].process.pid())).unwrap();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
    kilobytes.unwrap().trim().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_hold_no_more_than_they_may_and_keep_nobody_else_waiting() {
    let _alone = alone().await;
    let postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let room = ROOM.to_string();
    let settings =
        [("MAX_STREAM_BYTES_IN_FLIGHT", room.as_str()), ("WRITE_TIMEOUT_MS", "6000"), ("DATABASE_POOL_SIZE", "4")];
    let cluster = &Cluster::start_on(&postgres.server().admin_url(), 1, &settings).await;
    let (user, other) = (cluster.user(), cluster.user());
    let ids = ["a", "b", "c"];
    for id in ids {
        push_large(cluster, &user, id).await;
    }
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        let mut raw = Raw::connect_narrow(cluster.url(0), 4 << 10).await;
        let head =
            format!("GET /sync/{APP}/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", user.token);
        raw.write(head.as_bytes()).await;
        unread.push(raw);
    }
    let held = async || metric(cluster, 0, "mana_sync_stream_bytes").await as usize;
    eventually("streams hold a page", async || held().await > LARGE).await;
    let mut others = Events::open(stream_of(cluster, 0, &other, "")).await;
    let begin = Instant::now();
    let (mut most_held, mut most_resident) = (0, 0);
    for round in 0.. {
        if begin.elapsed() > Duration::from_secs(5) {
            break;
        }
        let id = format!("round-{round}");
        live::store(cluster, 0, &other, "phone", &[("tasks", &id)]).await;
        soon(cluster, SOON, "others are not kept waiting", others.until(&id)).await;
        most_held = most_held.max(held().await);
        most_resident = most_resident.max(resident(cluster));
    }
    println!("{UNREAD} unread streams held {} MiB of {} MiB", most_held >> 20, ROOM >> 20);
    println!("the replica had {} MiB resident", most_resident >> 20);
    assert!(most_held <= ROOM && most_resident < ROOM as u64 + BESIDE);

    // The unread streams are given up in the end, and a client that reads gets everything.
    drop(unread);
    let mut reading = Events::open(stream_of(cluster, 0, &user, "")).await;
    assert_eq!(timeout(TIMEOUT, reading.until("c")).await.unwrap(), ids);
    drop((reading, others));
    eventually("nothing is held for nobody", async || held().await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_nearly_ten_megabytes_reach_every_kind_of_reader() {
    let _alone = alone().await;
    let cluster = &Cluster::start(2).await;
    let user = cluster.user();
    let mut stream = Events::open(stream_of(cluster, 1, &user, "")).await;
    let mut socket = live::socket(cluster, 1, &user, None, None).await;
    let begin = Instant::now();
    push_large(cluster, &user, "a").await;
    push_large(cluster, &user, "b").await;
    assert_eq!(soon(cluster, SOON, "it is told", live::woken(&mut socket)).await.1, ["tasks"]);
    assert_eq!(soon(cluster, 2 * SOON, "both come", stream.until("b")).await, ["a", "b"]);
    println!("two changes of 10 MiB reached a stream {:?} after the first was sent", begin.elapsed());
    let pages = cluster.pull_all(&user, APP, "tasks", BEGINNING, Some("tablet")).await;
    assert_eq!((ids_of(&pages), pages.len()), (vec!["a", "b"], 2), "a page has one of them");
    let pages = cluster.push_all(&user, APP, BEGINNING, "tablet").await;
    assert_eq!(ids_of(&pages), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_bodies_that_do_not_come_are_given_up() {
    const GIVEN_UP: Duration = Duration::from_millis(700);
    let _alone = alone().await;
    let limit = GIVEN_UP.as_millis().to_string();
    let cluster = &Cluster::start_with(1, &[("HEADER_TIMEOUT_MS", &limit), ("BODY_TIMEOUT_MS", &limit)]).await;
    let user = cluster.user();
    let begin = Instant::now();
    let mut head = Raw::connect(cluster.url(0)).await;
    head.write(b"GET /health HTTP/1.1\r\nHost: x\r\nX-").await;
    assert_eq!(soon(cluster, SOON, "it is cut off", head.rest()).await, b"");
    assert!(begin.elapsed() >= GIVEN_UP, "{:?}", begin.elapsed());

    let mut body = Raw::connect(cluster.url(0)).await;
    let head = format!(
        "POST /sync/{APP} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 1000\r\n\r\n{{\"cl",
        user.token
    );
    body.write(head.as_bytes()).await;
    let answer = soon(cluster, SOON, "it is answered", body.head()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}
