//! Reads that cost more than they seem to, and readers that do not read their responses.

use crate::replica::{LimitedReplica, many};
use crate::support::live::{NO_DELTA, Raw};
use crate::support::*;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use std::time::{Duration, Instant};

const AT: &str = "2024-01-01T10:00:00.000Z";

async fn store(replica: &LimitedReplica, user: &User, device: &str, changes: Vec<serde_json::Value>) {
    let body = json!({ "clientId": device, "since": NO_DELTA, "changes": changes });
    replica.store(user, body.to_string()).await;
}

fn pull(user: &User) -> String {
    format!(
        "GET /sync/todo/pull?collection=t&since={BEGINNING} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        user.token
    )
}

pub async fn slow(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    store(replica, &user, "a", vec![update("t", "1", "text", "x".repeat(9_900_000), AT)]).await;
    let read = async |n: usize| {
        let mut raw = Raw::connect_narrow(replica.url(), 4 << 10).await;
        let head = if n.is_multiple_of(2) {
            pull(&user)
        } else {
            format!("GET /sync/todo/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", user.token)
        };
        raw.write(head.as_bytes()).await;
        raw
    };
    let readers = join_all((0..many(60, 20)).map(read)).await;
    // The user's share is used up, and readers that find no memory are told so.
    eventually("answers are held", async || replica.metric("mana_sync_stream_bytes").await > 9e6).await;
    tokio::time::sleep(Duration::from_secs(many(4, 1) as u64)).await;
    drop(readers);
    eventually("all of it is given back", async || replica.metric("mana_sync_stream_bytes").await < 1e5).await;
}

pub async fn growing(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    let push = async |id: usize, count: usize| {
        let numbers = vec!["1e40"; count].join(",");
        let change = format!(r#"{{"table":"t","id":"{id}","op":"insert","data":{{"v":[{numbers}]}}}}"#);
        let body = format!(r#"{{"clientId":"a","since":"{NO_DELTA}","changes":[{change}]}}"#);
        replica.push(&user, body).await.status.as_u16()
    };
    // 10 MB that would be 92 MiB when read back.
    assert_eq!(push(0, 2_000_000).await, 400);
    // The largest that are accepted: 2 MB that are 16 MiB when read back.
    for id in 0..many(4, 2) {
        assert_eq!(push(id, 360_000).await, 200);
    }
    let path = format!("/sync/todo/pull?collection=t&since={BEGINNING}");
    let read = async |_| {
        let reply = Reply::to(replica.cluster.request(&user, Method::GET, &path)).await;
        assert!(matches!(reply.status.as_u16(), 200 | 503), "{}", reply.status);
        reply.status == 200 && reply.text.len() > 14 << 20
    };
    let answered = join_all((0..20).map(read)).await;
    assert!(answered.contains(&true), "it is read, though not by all at once");
}

/// A device that has written very many fields of a record, and reads one change of another field.
pub async fn own_fields(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    let fields = |n: usize| {
        let field = |f| (format!("{:05}", n * 4_000 + f), json!({ "at": AT }));
        json!((0..4_000).map(field).collect::<serde_json::Map<_, _>>())
    };
    let change = |n: usize| json!({ "table": "t", "id": "one", "op": "update", "fields": fields(n) });
    let first = json!({ "clientId": "other", "since": BEGINNING, "changes": [update("t", "zero", "f", 0, AT)] });
    let first = replica.cluster.pushed(&user, "todo", first).await;
    store(replica, &user, "other", vec![update("t", "one", "f", "theirs", AT)]).await;
    for part in 0..many(5, 1) {
        store(replica, &user, "writer", (0..many(50, 5)).map(|n| change(part * 50 + n)).collect()).await;
    }
    let read = async |n: usize| {
        let since = if n.is_multiple_of(2) { BEGINNING } else { until(&first) };
        let path = format!("/sync/todo/pull?collection=t&since={since}");
        let request = replica.cluster.request(&user, Method::GET, &path).header("X-Client-Id", "writer");
        let reply = Reply::to(request).await;
        assert!(matches!(reply.status.as_u16(), 200 | 503), "{}", reply.text);
    };
    join_all((0..many(40, 4)).map(read)).await;
}

pub async fn long_history(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    let fields = |n: usize| {
        let field = |f| (format!("f{f}"), json!({ "value": n, "updatedAt": iso(1_704_103_200_000 + n as i64) }));
        json!((0..50).map(field).collect::<serde_json::Map<_, _>>())
    };
    let change = |n: usize| json!({ "table": "t", "id": "one", "op": "update", "fields": fields(n) });
    for round in 0..many(4, 1) {
        store(replica, &user, "writer", (0..1_500).map(|n| change(round * 1_500 + n)).collect()).await;
    }
    store(replica, &user, "other", vec![update("t", "one", "f1", "theirs", "2025-01-01T00:00:00.000Z")]).await;
    let read = async |_| {
        let path = format!("/sync/todo/pull?collection=t&since={BEGINNING}");
        let request = replica.cluster.request(&user, Method::GET, &path).header("X-Client-Id", "writer");
        let reply = Reply::to(request).await;
        assert!(matches!(reply.status.as_u16(), 200 | 503), "{}", reply.text);
    };
    join_all((0..40).map(read)).await;
}

pub async fn many_collections(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    store(replica, &user, "a", (0..2_000).map(|n| update(&format!("t{n}"), "1", "f", n, AT)).collect()).await;
    let names = |count: usize| (0..count).map(|n| format!("t{n}")).collect::<Vec<_>>().join(",");
    let stream = async |count: usize| {
        let mut raw = Raw::connect(replica.url()).await;
        let head = format!(
            "GET /sync/todo/stream?collections={} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
            names(count),
            user.token
        );
        raw.write(head.as_bytes()).await;
        let status = raw.head().await.split(' ').nth(1).unwrap().parse::<u16>().unwrap();
        (status, raw)
    };
    for count in [9_000, 257] {
        assert_eq!(stream(count).await.0, 400, "{count}");
    }
    let mut raw = Raw::connect(replica.url()).await;
    // The response is a 431 before all of it has arrived, and the connection may be cut by then.
    let _ = raw.try_write(format!("GET /sync/todo/stream?collections={} HTTP/1.1\r\n", names(60_000)).as_bytes()).await;
    let answer = raw.rest().await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    let streams = join_all((0..100).map(|_| stream(256))).await;
    assert!(streams.iter().all(|(status, _)| *status == 200));
}

pub async fn polls(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    store(replica, &user, "a", vec![update("t", "1", "f", 1, AT)]).await;
    let begun = Instant::now();
    let poll = async |n: usize| {
        let mut answers = 0;
        while begun.elapsed() < Duration::from_secs(many(10, 2) as u64) {
            let path = format!("/sync/todo/pull?collection=t&since={NO_DELTA}");
            let request = replica.cluster.request(&user, Method::GET, &path).header("X-Client-Id", format!("tab-{n}"));
            assert_eq!(Reply::to(request).await.status, 200);
            answers += 1;
        }
        answers
    };
    let answers: usize = join_all((0..4).map(poll)).await.iter().sum();
    assert!(answers <= 4 * (8 + 6 * many(10, 2)), "{answers} answers");
}

/// A device that has written very many fields of records with the longest names, and reads what others wrote to the
/// same ones: each of its own fields is reported with its name.
pub async fn long_own_names(replica: &LimitedReplica) {
    let (table, fields, records) = ("t".repeat(255), many(4_000, 1_000), many(24, 6));
    let stamped = |stamp: &str| {
        let field = |f| (format!("{f:04}"), json!({ "value": 1, "updatedAt": stamp }));
        json!((0..fields).map(field).collect::<serde_json::Map<_, _>>())
    };
    let users: Vec<User> = (0..many(8, 3)).map(|_| replica.cluster.user()).collect();
    for user in &users {
        // The others' writes win, so all of them are sent; and the last ones make pages end before the newest change.
        for (device, stamp) in
            [("other", "2024-01-02T00:00:00.000Z"), ("own", AT), ("other", "2024-01-03T00:00:00.000Z")]
        {
            let change = |n: usize| json!({ "table": table, "id": format!("{n:0>1024}"), "op": "update", "fields": stamped(stamp) });
            for some in (0..records).collect::<Vec<_>>().chunks(12) {
                store(replica, user, device, some.iter().map(|n| change(*n)).collect()).await;
            }
        }
    }
    let read = async |n: usize| {
        let user = &users[n % users.len()];
        let path = format!("/sync/todo/pull?collection={table}&since={AT}");
        let request = replica.cluster.request(user, Method::GET, &path).header("X-Client-Id", "own");
        let reply = Reply::to(request).await;
        assert!(matches!(reply.status.as_u16(), 200 | 503), "{}", reply.text);
        reply.status == 200
    };
    let answered = join_all((0..many(64, 9)).map(read)).await;
    assert!(answered.contains(&true), "it is read, though not by all at once");
    eventually("all of it is given back", async || replica.metric("mana_sync_stream_bytes").await < 1e5).await;
}

/// The largest pages, of small changes, for very many users at once: before they are read, and while nobody reads them.
pub async fn large_pages(replica: &LimitedReplica) {
    let users: Vec<User> = (0..many(40, 8)).map(|_| replica.cluster.user()).collect();
    for user in &users {
        let change = |n: usize| update("t", &n.to_string(), "text", "x".repeat(4_000), AT);
        store(replica, user, "a", (0..1_000).map(change).collect()).await;
    }
    let slow = async |n: usize| {
        let mut raw = Raw::connect_narrow(replica.url(), 4 << 10).await;
        raw.write(pull(&users[n % users.len()]).as_bytes()).await;
        raw
    };
    let readers = join_all((0..many(200, 40)).map(slow)).await;
    eventually("answers are held", async || replica.metric("mana_sync_stream_bytes").await > 9e6).await;
    // Readers that come meanwhile get a smaller page, or are told to retry.
    let read = async |user: &User| {
        let path = format!("/sync/todo/pull?collection=t&since={BEGINNING}");
        let reply = Reply::to(replica.cluster.request(user, Method::GET, &path)).await;
        assert!(matches!(reply.status.as_u16(), 200 | 503), "{}", reply.text);
    };
    join_all(users.iter().map(read)).await;
    drop(readers);
    eventually("all of it is given back", async || replica.metric("mana_sync_stream_bytes").await < 1e5).await;
}
