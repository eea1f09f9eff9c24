//! Unlimited apps and sessions of one user.

use crate::replica::{LimitedReplica, many};
use crate::support::live::{NO_DELTA, Raw};
use crate::support::*;
use futures_util::stream::{self, StreamExt};
use reqwest::Method;
use serde_json::json;

pub async fn apps(replica: &LimitedReplica) {
    let user = &replica.cluster.user();
    let body = &json!({
        "clientId": "a", "since": NO_DELTA, "changes": [insert("t", "1", "x", "2024-01-01T10:00:00.000Z")],
    });
    let make = async |n: usize| {
        let reply = Reply::to(replica.cluster.request(user, Method::POST, &format!("/sync/app-{n}")).json(body)).await;
        reply.status.as_u16()
    };
    let statuses: Vec<u16> = stream::iter(0..many(3_000, 600)).map(make).buffer_unordered(50).collect().await;
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429 | 503)), "{statuses:?}");
    assert!(statuses.iter().filter(|status| **status == 200).count() <= 256);
    let made: i64 = sqlx::query_scalar("select count(*) from sync_heads where user_id = $1")
        .bind(&user.id)
        .fetch_one(&replica.cluster.pool)
        .await
        .unwrap();
    assert!(made <= 256, "{made}");
    drop(Raw::member(replica.url(), "/ws", user, 1 << 16).await);
}

pub async fn sessions(replica: &LimitedReplica) {
    let user = &replica.cluster.user();
    let mut sockets = Vec::new();
    for _ in 0..200 {
        sockets.push(Raw::member(replica.url(), "/ws", user, 1 << 16).await);
    }
    let stream = Reply::to(replica.cluster.request(user, Method::GET, "/sync/todo/stream")).await;
    assert_eq!(stream.status, 429, "{}", stream.text);
    // Each with an unfinished message of 60 KB: the user's share holds them.
    for socket in &mut sockets {
        let head = [&[0x81, 0x80 | 127][..], &60_000_u64.to_be_bytes(), &[0; 4]].concat();
        socket.write(&[head, vec![b'x'; 59_000]].concat()).await;
    }
}
