//! Stalled writes do not stall reads (G6): waiting pushes leave connections to them.

use crate::batcher::waiting_for_locks;
use crate::support::*;
use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use std::cell::Cell;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const AT: &str = "2024-01-01T10:05:00.000Z";
/// Far less than statements wait for a lock, far more than a read takes.
const SOON: Duration = Duration::from_secs(2);
/// The pause between two pushes.
const PAUSE: Duration = Duration::from_millis(25);

fn body(record: &str) -> Value {
    json!({ "clientId": "phone", "since": live::NO_DELTA, "changes": [insert("todos", record, "Milk", AT)] })
}

#[tokio::test]
async fn a_table_that_cannot_be_written_to_can_be_read() {
    let cluster = Cluster::start_with(1, &[("DATABASE_POOL_SIZE", "8")]).await;
    let reader = cluster.user();
    cluster.pushed(&reader, "todo", body("first")).await;
    let mut holder = PgConnection::connect(&cluster.database_url).await.unwrap();
    let mut transaction = holder.begin().await.unwrap();
    // Like building an index.
    sqlx::query("lock table sync_changes in share mode").execute(&mut *transaction).await.unwrap();

    // As on any day: not all at once.
    let users: Vec<User> = (0..120).map(|_| cluster.user()).collect();
    let sent = Cell::new(0);
    let pushing = join_all(users.iter().zip(0..).map(async |(user, n)| {
        sleep(PAUSE * n).await;
        sent.set(sent.get() + 1);
        cluster.push(user, "todo", body("later")).await.0
    }));
    let reading = async {
        eventually("pushes wait for the table", async || waiting_for_locks(&cluster).await >= 6).await;
        while sent.get() < users.len() {
            let begun = Instant::now();
            let (status, answer) = cluster.pull(&reader, "todo", "todos", BEGINNING, None).await;
            assert_eq!(status, 200, "{answer}");
            assert_eq!(ids(&answer), ["first"]);
            assert_soon(&cluster, SOON, "it waits for no lock", begun.elapsed()).await;
        }
        transaction.rollback().await.unwrap();
    };
    let (answers, ()) = join(pushing, reading).await;
    assert!(answers.iter().all(|status| matches!(status.as_u16(), 200 | 503)), "{answers:?}");
    cluster.pushed(&reader, "todo", body("last")).await;
}
