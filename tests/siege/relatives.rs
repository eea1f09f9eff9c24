//! Variants of the known attacks: the same ideas applied elsewhere.

use crate::replica::{LimitedReplica, many};
use crate::support::live::{NO_DELTA, Raw, TEXT};
use crate::support::*;
use crate::unauthenticated::open;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

const AT: &str = "2024-01-01T10:00:00.000Z";
/// A time that is ahead whenever this runs.
const AHEAD: &str = "2199-01-01T00:00:00.000Z";
/// Bytes that pushes may hold, bodies and what they become, and half as much again for the allocator.
const PUSHES_AND_SLACK: u64 = 3 * (128 << 20);
/// How long endless attacks go on.
const LONG: Duration = Duration::from_secs(2);

/// Names that are repeated over and over, and deep or long values where nothing is read.
pub async fn repeated_names(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    // A debug build reads a body ten times as slowly.
    let length = many(10 << 20, 1 << 20);
    let push = |change: &str| format!(r#"{{"clientId":"a","since":"{NO_DELTA}","changes":[{change}]}}"#);
    let again = |one: &str| vec![one; length / (one.len() + 1) - 100].join(",");
    let deep = format!("{}{}", "[".repeat(length / 2 - 200), "]".repeat(length / 2 - 200));
    let field = again(&format!(r#""f":{{"value":1,"updatedAt":"{AT}"}}"#));
    for body in [
        push(&format!(r#"{{"table":"t","id":"1","op":"update","fields":{{{field}}}}}"#)),
        push(&format!(r#"{{"table":"t","id":"2","op":"insert","data":{{{}}}}}"#, again(r#""f":1"#))),
        push(&format!(r#"{{"table":"t","id":"3","op":"insert","data":{{"v":{{{}}}}}}}"#, again(r#""f":1"#))),
        push(&format!(r#"{{"table":"t","id":"4","op":"delete",{}}}"#, again(r#""deletedAt":null"#))),
        push(&format!(r#"{{"table":"t","id":"5","op":"delete",{}}}"#, again(r#""x":0"#))),
        push(&format!(r#"{{"table":"t","id":"6","op":"delete","x":{deep}}}"#)),
        format!(r#"{{"clientId":"a","changes":[],"x":{deep}}}"#),
        format!(r#"{{"clientId":"a","changes":[],{}}}"#, again(r#""x":0"#)),
        format!(r#"{{"clientId":"a","changes":[],"x":[{}]}}"#, again("{}")),
        format!(r#"{{{},"changes":[]}}"#, again(r#""clientId":"a""#)),
    ] {
        let reply = replica.cluster.push_raw(&user, "todo", body).await;
        assert!(matches!(reply.status.as_u16(), 200 | 400 | 503), "{}", reply.status);
        let answers_little = reply.status == 200 || reply.text.len() < 4_096;
        assert!(answers_little, "an error quotes little: {} bytes", reply.text.len());
    }
}

/// Members as short as can be: of inserts whose device is ahead, which claims a stamp for each, and to whose records others
/// have written; and such as the protocol does not name.
pub async fn short_members(replica: &LimitedReplica) {
    // A debug build takes ten times as long to read and store them.
    let length = many(10 << 20, 3 << 20);
    let fields: String = (0..4_000).map(|n| format!(r#","{n:x}":1"#)).collect();
    let insert = |n| format!(r#"{{"table":"t","id":"{n}","op":"insert","data":{{"updatedAt":"{AHEAD}"{fields}}}}}"#);
    let unnamed = r#","":1"#.repeat(3_200);
    let delete = |n| format!(r#"{{"table":"t","id":"{n}","op":"delete","deletedAt":"{AT}"{unnamed}}}"#);
    let of = |one: &dyn Fn(usize) -> String| {
        let changes: Vec<String> = (0..length / one(1_000).len() - 4).map(one).collect();
        format!(r#"{{"clientId":"a","since":"{BEGINNING}","changes":[{}]}}"#, changes.join(","))
    };
    let others: Vec<_> = (0..300).map(|n| update("t", &n.to_string(), "f", 1, AT)).collect();
    let others = json!({ "clientId": "b", "since": NO_DELTA, "changes": others }).to_string();
    let (before, _) = replica.resident();
    for body in [of(&insert), of(&delete)] {
        let users: Vec<User> = (0..many(8, 3)).map(|_| replica.cluster.user()).collect();
        for user in &users {
            replica.store(user, others.clone()).await;
        }
        let pushes = users.iter().map(|user| replica.cluster.push_raw(user, "todo", body.clone()));
        let replies = join_all(pushes).await;
        let refused: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
        let texts: Vec<_> = refused.iter().map(|reply| (reply.status, &reply.text)).collect();
        assert!(refused.iter().all(|reply| reply.status == 503), "{texts:?}");
        assert!(refused.len() < replies.len(), "{texts:?}");
    }
    let (_, most) = replica.resident();
    let took = most.saturating_sub(before);
    assert!(took < PUSHES_AND_SLACK, "{} MiB for pushes", took >> 20);
}

/// As many and as long names in a query as fit into a head, on streams of one app and of several, and pulls.
pub async fn long_queries(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    let names = |count: usize, length: usize| (0..count).map(|n| format!("{n:0length$}")).collect::<Vec<_>>().join(",");
    for list in [names(256, 200), names(230, 255), names(9_000, 6), ",".repeat(60_000), "%2C".repeat(20_000)] {
        for path in ["/sync/todo/stream?collections=", "/sync/stream?apps=", "/sync/todo/pull?since=&collection="] {
            let ask = async |_| {
                let request = replica.cluster.request(&user, Method::GET, &format!("{path}{list}"));
                let response = request.send().await.unwrap();
                let status = response.status().as_u16();
                assert!(matches!(status, 200 | 400 | 404 | 414 | 429 | 431 | 503), "{status} to {path}");
                response
            };
            drop(join_all((0..many(50, 10)).map(ask)).await);
        }
    }
    eventually("all of it is given back", async || replica.metric("mana_sync_stream_bytes").await < 1e5).await;
}

/// Streams of several users that stay open, each with as many and as long names as fit into a head.
pub async fn long_names(replica: &LimitedReplica) {
    let list = (0..230).map(|n| format!("{n:0>255}")).collect::<Vec<_>>().join(",");
    let open = async |user: &User| {
        let mut raw = Raw::connect(replica.url()).await;
        let head = format!(
            "GET /sync/todo/stream?collections={list} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
            user.token
        );
        raw.write(head.as_bytes()).await;
        let status = raw.head().await.split(' ').nth(1).unwrap().parse::<u16>().unwrap();
        assert!(matches!(status, 200 | 429 | 503), "{status}");
        raw
    };
    let mut streams = Vec::new();
    for _ in 0..many(20, 4) {
        let user = replica.cluster.user();
        streams.push(join_all((0..many(200, 60)).map(|_| open(&user))).await);
    }
    tokio::time::sleep(LONG).await;
    drop(streams);
    eventually("all of it is given back", async || replica.metric("mana_sync_stream_name_bytes").await == 0.0).await;
}

/// Pushes of very many tables, one after another, and then sockets that must be notified of all of them but are not
/// read, and one that is.
pub async fn greetings(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    let mut pushed = 0;
    for round in 0..many(60, 12) {
        let change = |n| update(&format!("{round:0>10}-{n:0>14}"), "r", "f", 1, AT);
        let changes: Vec<_> = (0..5_000).map(change).collect();
        let body = json!({ "clientId": "a", "since": NO_DELTA, "changes": changes }).to_string();
        let status = replica.cluster.push_raw(&user, "todo", body).await.status;
        assert!(matches!(status.as_u16(), 200 | 503), "{status}");
        pushed += usize::from(status == 200);
    }
    assert!(pushed > 0);
    let sockets = join_all((0..199).map(|_| Raw::member(replica.url(), "/ws", &user, 4 << 10))).await;
    // A socket that is read gets its first messages at once, and then the rest.
    let mut reads = Raw::member(replica.url(), "/ws", &user, 1 << 20).await;
    for _ in 0..many(20, 5) {
        let (first, message) = reads.frame().await.expect("it stays open");
        assert!(first == TEXT && message.len() <= 128 << 10, "{} bytes", message.len());
    }
    tokio::time::sleep(LONG).await;
    drop((sockets, reads));
}

/// Heads with many headers, with the same one over and over, with long names; and chunks of one byte.
pub async fn headers(replica: &LimitedReplica) {
    let lines = |line: &dyn Fn(usize) -> String, count: usize| (0..count).map(line).collect::<String>();
    for more in [
        lines(&|n| format!("X-{n}: 1\r\n"), 90),
        lines(&|n| format!("X-{n}: 1\r\n"), 5_000),
        lines(&|_| "X: 1\r\n".to_owned(), 9_000),
        lines(&|n| format!("{}{n}: \r\n", "X".repeat(600)), 90),
        lines(&|_| "Cookie: a=b\r\n".to_owned(), 99),
        lines(&|n| format!("X-Forwarded-For: 10.0.0.{}\r\n", n % 256), 99),
    ] {
        let ask = async |_| {
            let mut raw = Raw::connect(replica.url()).await;
            let head = format!("GET /sync/todo/pull HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");
            let _ = raw.try_write(head.as_bytes()).await;
            let answer = raw.rest().await;
            let status = String::from_utf8_lossy(&answer).split(' ').nth(1).map(str::to_owned);
            assert!(matches!(status.as_deref(), Some("401" | "400" | "431") | None), "{status:?}");
        };
        join_all((0..many(200, 50)).map(ask)).await;
    }
    let user = replica.cluster.user();
    let chunks = async |chunk: &str| {
        let mut raw = Raw::connect(replica.url()).await;
        let head = format!(
            "POST /sync/todo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
            user.token
        );
        raw.write(head.as_bytes()).await;
        let some = chunk.repeat((64 << 10) / chunk.len());
        for _ in 0..many(100, 20) {
            if raw.try_write(some.as_bytes()).await.is_err() {
                break;
            }
        }
    };
    let extended = format!("1;{}\r\n \r\n", "x".repeat(8_000));
    join_all((0..10).map(|n| if n % 2 == 0 { chunks("1\r\n \r\n") } else { chunks(&extended) })).await;
}

/// A frame that is part of a message: the first one, or a continuation.
fn part(first: bool, payload: &[u8]) -> Vec<u8> {
    [&[u8::from(first), 0x80 | payload.len() as u8, 0, 0, 0, 0][..], payload].concat()
}

/// Messages with as many frames as bytes, empty frames, and pings whose pongs are not read.
pub async fn fragments(replica: &LimitedReplica) {
    let of_bytes = |count: usize| -> Vec<u8> { (0..count).flat_map(|n| part(n == 0, b"x")).collect() };
    let unfinished = open(replica, many(2_000, 300), of_bytes(4_000), true).await;
    assert!(!unfinished.is_empty());
    drop(unfinished);
    let user = replica.cluster.user();
    let without_end = async |frames: Vec<u8>| {
        let mut raw = Raw::member(replica.url(), "/ws", &user, 4 << 10).await;
        let begun = Instant::now();
        let some = frames.repeat((16 << 10) / frames.len() + 1);
        let first = if frames[0] == 0 { part(true, b"") } else { vec![] };
        let _ = raw.try_write(&first).await;
        while begun.elapsed() < LONG {
            match tokio::time::timeout(LONG, raw.try_write(&some)).await {
                Ok(Ok(())) => {}
                // It has closed the connection, or does not read while its pongs are not read.
                Ok(Err(_)) | Err(_) => return,
            }
        }
    };
    let ping = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[b'x'; 125]].concat();
    let pong = [&[0x8a, 0x80 | 125, 0, 0, 0, 0][..], &[b'x'; 125]].concat();
    let unknown = {
        let text = br#"{"type":"whatever"}"#;
        [&[TEXT, 0x80 | text.len() as u8, 0, 0, 0, 0][..], text].concat()
    };
    let auth = {
        let text = json!({ "type": "auth", "token": user.token }).to_string();
        [&[TEXT, 0x80 | 126][..], &(text.len() as u16).to_be_bytes(), &[0; 4], text.as_bytes()].concat()
    };
    let kinds = [part(false, b""), part(false, b"x"), ping, pong, unknown, auth];
    // In the short form one of each kind: a debug build takes ten times as long for a frame.
    join_all((0..many(60, kinds.len())).map(|n| without_end(kinds[n % kinds.len()].clone()))).await;
}

/// Compressed pages that are not read, and compressed request bodies.
pub async fn compressed(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    let text: String =
        (0..1_200_000_u64).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40)).collect();
    let change = update("t", "1", "text", text, AT);
    let body = json!({ "clientId": "a", "since": NO_DELTA, "changes": [change] }).to_string();
    replica.store(&user, body).await;
    let mut readers = Vec::new();
    for n in 0..many(60, 20) {
        let mut raw = Raw::connect_narrow(replica.url(), 4 << 10).await;
        let encoding = ["gzip", "br", "zstd", "deflate"][n % 4];
        let path = ["/sync/todo/pull?collection=t&since=1970-01-01T00:00:00.000Z", "/sync/todo/stream"][n / 4 % 2];
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nAccept-Encoding: {encoding}\r\n\r\n",
            user.token
        );
        raw.write(head.as_bytes()).await;
        readers.push(raw);
    }
    tokio::time::sleep(LONG).await;
    drop(readers);
    eventually("all of it is given back", async || replica.metric("mana_sync_stream_bytes").await < 1e5).await;
    for encoding in ["gzip", "zstd", "br", "deflate", "gzip, gzip"] {
        let request = replica.cluster.request(&user, Method::POST, "/sync/todo");
        let request = request.header("Content-Type", "application/json").header("Content-Encoding", encoding);
        let reply = Reply::to(request.body(vec![0; 1 << 20])).await;
        assert_eq!(reply.status, 415, "{encoding}: {}", reply.text);
    }
}

/// A user with the maximum number of apps and tables is erased while a stream still listens.
pub async fn erased(replica: &LimitedReplica) {
    let (user, apps) = (replica.cluster.user(), many(256, 120));
    let mut stream = Raw::connect(replica.url()).await;
    let head =
        format!("GET /sync/stream?apps=a1,a2 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", user.token);
    stream.write(head.as_bytes()).await;
    assert!(stream.head().await.starts_with("HTTP/1.1 200 "));
    let reconciled = async || replica.metric("mana_sync_wakeups_reconciled_total").await;
    let (before, (resident, _)) = (reconciled().await, replica.resident());
    let erase = "
        insert into sync_erased (log_id, user_key, app_id, head, tables, erased_at)
        select sync_log_id($1, 'a' || app), sync_user_key($1), 'a' || app, now(),
               array(select lpad(n::text, 255, 't') from generate_series(1, 5000) n), now()
        from generate_series(1, $2) app";
    sqlx::query(erase).bind(&user.id).bind(apps as i32).execute(&replica.cluster.pool).await.unwrap();
    eventually("it is found out", async || reconciled().await >= before + apps as f64).await;
    tokio::time::sleep(LONG).await;
    let (_, peak) = replica.resident();
    assert!(peak < resident + (160 << 20), "{} MiB more were resident", (peak - resident) >> 20);
}
