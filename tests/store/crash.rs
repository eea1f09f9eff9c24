//! G1 while a replica is killed: what was acknowledged is stored, and what was sent again is stored once.

use crate::support::*;
use mana_load::device::{Device, DeviceOptions};
use mana_load::protocol::{Change, Op};
use serde_json::{Map, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const WRITERS: usize = 8;
const PUSHES: usize = 60;
const KILLS: usize = 4;
const APP: &str = "todo";
const TABLE: &str = "tasks";

/// Pushes three records at a time, each push until it is acknowledged. Returns the acknowledged ids.
async fn write(mut device: Device, writer: usize, pushed: Arc<AtomicUsize>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0..PUSHES {
        let ids: Vec<String> = (0..3).map(|part| format!("{writer}-{n}-{part}")).collect();
        for id in &ids {
            let data =
                Map::from_iter([("n".into(), json!(n)), ("updatedAt".into(), json!("2024-01-01T10:00:00.000Z"))]);
            device.edit(Change { table: TABLE.into(), id: id.clone(), op: Op::Insert { data } });
        }
        device.push().await.unwrap();
        pushed.fetch_add(1, Ordering::Relaxed);
        acknowledged.extend(ids);
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_replica_is_killed_every_acknowledged_change_is_stored_and_every_retried_one_once() {
    let mut cluster = Cluster::start(3).await;
    let user = cluster.user();
    let pushed = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let mut options = DeviceOptions::new(APP, &format!("writer-{writer}"), &user.token, &cluster.urls(), &[TABLE]);
        options.seed = writer as u64;
        options.retry.deadline = TIMEOUT;
        options.retry.pause = Duration::from_millis(20);
        writers.spawn(write(Device::new(cluster.http.clone(), options).unwrap(), writer, pushed.clone()));
    }
    for kill in 1..=KILLS {
        let progress = kill * WRITERS * PUSHES / (KILLS + 1);
        eventually("the writers get on", async || pushed.load(Ordering::Relaxed) >= progress).await;
        let node = &mut cluster.nodes[kill % 3];
        node.process.kill().await;
        node.restart().await;
    }
    let mut acknowledged = BTreeSet::new();
    while let Some(writer) = writers.join_next().await {
        acknowledged.extend(writer.unwrap());
    }
    let stored: Vec<String> =
        sqlx::query_scalar("select record_id from sync_changes where user_id = $1 order by record_id")
            .bind(&user.id)
            .fetch_all(&cluster.pool)
            .await
            .unwrap();
    assert_eq!(acknowledged.len(), WRITERS * PUSHES * 3);
    assert_eq!(stored, acknowledged.into_iter().collect::<Vec<_>>());
}
