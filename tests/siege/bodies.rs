//! Pushes that cost more than they seem to.

use crate::replica::{LimitedReplica, many};
use crate::support::live::{NO_DELTA, Raw};
use crate::support::*;
use futures_util::future::join_all;
use serde_json::{Value, json};

const AT: &str = "2024-01-01T10:00:00.000Z";
/// A time that is always in the future.
const AHEAD: &str = "2199-01-01T00:00:00.000Z";
const MAX_BODY: usize = 10 << 20;
/// Maximum bytes of an answer beyond twice its request: a page and its envelope.
const PAGE: usize = 5 << 20;

fn push_of(changes: &[Value]) -> String {
    json!({ "clientId": "a", "since": NO_DELTA, "changes": changes }).to_string()
}

/// Returns the status of the answer to a push of `length` bytes, whose size must be within its limit.
fn status_of(reply: &Reply, length: usize) -> u16 {
    assert!(reply.text.len() <= 2 * length + PAGE, "{} bytes for {length}", reply.text.len());
    reply.status.as_u16()
}

/// Pushes a body once.
async fn push(replica: &LimitedReplica, user: &User, body: String) -> u16 {
    let length = body.len();
    status_of(&replica.cluster.push_raw(user, "todo", body).await, length)
}

/// Pushes a body, with retries while the replica is busy.
async fn push_until_answered(replica: &LimitedReplica, user: &User, body: String) -> u16 {
    let length = body.len();
    status_of(&replica.push(user, body).await, length)
}

pub async fn many_fields(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    let fields = |count: usize| {
        let field = |n| (format!("f{n}"), json!({ "value": 1, "updatedAt": AT }));
        (0..count).map(field).collect::<serde_json::Map<_, _>>()
    };
    let data = |count: usize| (0..count).map(|n| (format!("f{n}"), json!(n))).collect::<serde_json::Map<_, _>>();
    let update =
        |count, id: usize| json!({ "table": "t", "id": id.to_string(), "op": "update", "fields": fields(count) });
    let insert = |count, id: usize| json!({ "table": "t", "id": id.to_string(), "op": "insert", "data": data(count) });
    for (body, status) in [
        (push_of(&[update(100_000, 0)]), 400),
        (push_of(&[insert(100_000, 0)]), 400),
        (push_of(&(0..20).map(|id| update(4_000, id)).collect::<Vec<_>>()), 200),
        (push_of(&(20..60).map(|id| insert(4_000, id)).collect::<Vec<_>>()), 200),
    ] {
        for _ in 0..2 {
            assert_eq!(push_until_answered(replica, &user, body.clone()).await, status);
        }
    }
}

pub async fn stamps_ahead(replica: &LimitedReplica) {
    let one = |id: usize| {
        let field = |n| (format!("f{n}"), json!({ "value": 1, "updatedAt": AHEAD }));
        let fields: serde_json::Map<_, _> = (0..4_000).map(field).collect();
        json!({ "table": "t".repeat(255), "id": format!("{id}-{}", "r".repeat(1_000)), "op": "update", "fields": fields })
    };
    let wide: Vec<Value> = (0..many(40, 10)).map(one).collect();
    let narrow = |id: usize| update("t", &id.to_string(), "f", 1, AHEAD);
    let narrow: Vec<Value> = (0..20_000).map(narrow).collect();
    let users = [replica.cluster.user(), replica.cluster.user()];
    let pushes = [push_of(&wide), push_of(&narrow)];
    for (user, body) in users.iter().zip(pushes) {
        assert!(body.len() < MAX_BODY);
        assert_eq!(push_until_answered(replica, user, body.clone()).await, 200);
        assert_eq!(push_until_answered(replica, user, body).await, 200, "sent again");
    }
}

pub async fn short_changes(replica: &LimitedReplica) {
    let too_many = format!(
        r#"{{"clientId":"a","changes":[{}]}}"#,
        vec![r#"{"table":"t","id":"1","op":"delete"}"#; MAX_BODY / 37 - 4].join(",")
    );
    let delete =
        |user: usize, id: usize| json!({ "table": "t", "id": format!("{user}-{id}"), "op": "delete", "deletedAt": AT });
    let users: Vec<User> = (0..many(13, 3)).map(|_| replica.cluster.user()).collect();
    let statuses = join_all(users.iter().map(|user| push(replica, user, too_many.clone()))).await;
    assert!(statuses.iter().all(|status| matches!(status, 400 | 503)), "{statuses:?}");
    let count = many(20_000, 4_000);
    let pushes = users.iter().enumerate().map(|(n, user)| {
        let changes: Vec<Value> = (0..count).map(|id| delete(n, id)).collect();
        push(replica, user, push_of(&changes))
    });
    let statuses = join_all(pushes).await;
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
}

/// Pushes of one user with as many and as long names as are accepted, and with more, while nobody reads the user's
/// sockets.
pub async fn many_tables(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    let mut sockets = Vec::new();
    for _ in 0..many(200, 60) {
        sockets.push(Raw::member(replica.url(), "/ws", &user, 4 << 10).await);
    }
    let pushes = |count: usize, name: &dyn Fn(usize) -> String| {
        let change = |n| update(&name(n), "r", "f", 1, AT);
        push_of(&(0..count).map(change).collect::<Vec<_>>())
    };
    let long = "x".repeat(240);
    assert_eq!(push(replica, &user, pushes(6_000, &|n| format!("{n}-{long}"))).await, 400);
    for round in 0..many(30, 8) {
        let body = pushes(500, &|n| format!("{round}-{n}-{long}"));
        assert!(matches!(push(replica, &user, body).await, 200 | 503));
        let body = pushes(4_500, &|n| format!("{round}-{n}"));
        assert!(matches!(push(replica, &user, body).await, 200 | 503));
    }
    drop(sockets);
}

pub async fn wrong(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    let around = |value: &str| {
        format!(r#"{{"clientId":"a","changes":[{{"table":"t","id":"1","op":"insert","data":{{"v":{value}}}}}]}}"#)
    };
    let half = MAX_BODY / 2 - 100;
    for (body, status) in [
        (around(&format!("{}{}", "[".repeat(half), "]".repeat(half))), 400),
        (around(&"1".repeat(half)), 400),
        (around(&format!("[{}]", vec!["1e400"; half / 6].join(","))), 400),
        (around(&format!("\"{}", "x".repeat(half))), 400),
        (format!(r#"{{"clientId":"a","changes":{:?}}}"#, "x".repeat(half)), 400),
        (format!(r#"{{"clientId":"a","changes":[{{"table":"t","id":"1","op":{:?}}}]}}"#, "x".repeat(half)), 400),
        (format!(r#"{{"clientId":{:?},"changes":[]}}"#, "x".repeat(half)), 400),
        (format!(r#"{{"clientId":"a","since":{:?}}}"#, "x".repeat(half)), 400),
        ("{".repeat(half), 400),
        (" ".repeat(MAX_BODY + 1), 413),
    ] {
        let reply = replica.cluster.push_raw(&user, "todo", body).await;
        assert_eq!(reply.status, status, "{}", &reply.text[..reply.text.len().min(200)]);
        assert!(reply.text.len() < 4_096, "an error quotes little: {} bytes", reply.text.len());
    }
    assert_eq!(replica.cluster.stored(&user).await, 0);
}

pub async fn stalled(replica: &LimitedReplica) {
    let user = replica.cluster.user();
    let head = format!(
        "POST /sync/todo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {MAX_BODY}\r\n\r\n{{",
        user.token
    );
    let stall = async |_| {
        let mut raw = Raw::connect(replica.url()).await;
        raw.write(head.as_bytes()).await;
        let chunk = vec![b' '; 64 << 10];
        for _ in 0..(MAX_BODY / chunk.len() - 2) {
            if raw.try_write(&chunk).await.is_err() {
                break;
            }
        }
        // It is told to retry, or that the rest did not arrive.
        let answer = raw.rest().await;
        let status = String::from_utf8_lossy(&answer).split(' ').nth(1).map(str::to_owned);
        assert!(matches!(status.as_deref(), Some("503" | "408") | None), "{status:?}");
    };
    join_all((0..27).map(stall)).await;
}
