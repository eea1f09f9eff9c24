//! A new device reads the live data, and nothing else.

use super::support::*;
use super::{APP, TABLE, trim};
use std::time::{Duration, Instant};

const RECORDS: i64 = 200;
const FIELDS: i64 = 10;
const EDITS: i64 = 20_000;

/// Stores edits of single fields, field by field and record by record, as a replica would.
async fn fill(cluster: &Cluster, user: &User) {
    let changes = "
        insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at, log_id, size)
        select gen_random_uuid(), $2, $3, 'record-' || n % $4, $1, 'update', jsonb_build_object('field-' || n / $4 % $5, 'value ' || n),
               jsonb_build_object('field-' || n / $4 % $5, sync_iso(timestamptz '2024-01-01 10:00:00Z' + n * interval '1 second')),
               'device-' || n % 3, timestamptz '2024-01-02 10:00:00Z' + n * interval '20 microseconds', sync_log_id($1, $2), 100
        from generate_series(0, $6 - 1) as n";
    let changes = sqlx::query(changes).bind(&user.id).bind(APP).bind(TABLE).bind(RECORDS).bind(FIELDS).bind(EDITS);
    changes.execute(&cluster.pool).await.unwrap();
    let head = "
        insert into sync_heads (log_id, user_key, user_id, app_id, head, previous)
        select sync_log_id($1, $2), sync_user_key($1), $1, $2, timestamptz '2024-01-02 10:00:00Z' + $3 * interval '20 microseconds', 'epoch'";
    sqlx::query(head).bind(&user.id).bind(APP).bind(EDITS - 1).execute(&cluster.pool).await.unwrap();
}

/// Returns how many changes a new device is sent, and how long that takes.
async fn initial_sync(cluster: &Cluster, user: &User) -> (i64, Duration) {
    let begun = Instant::now();
    let pages = cluster.push_all(user, APP, BEGINNING, "fresh").await;
    (ids_of(&pages).len() as i64, begun.elapsed())
}

#[tokio::test]
async fn it_reads_at_most_a_tenth_more_rows_than_hold_a_winner() {
    let cluster = shared().await;
    let user = cluster.user();
    fill(cluster, &user).await;
    let before = initial_sync(cluster, &user).await;
    assert_eq!(before.0, EDITS);
    let begun = Instant::now();
    let done = trim(cluster, &user, Duration::from_secs(3600), 30).await;
    println!("{EDITS} edits are trimmed in {:?}: {done:?}", begun.elapsed());
    let after = initial_sync(cluster, &user).await;
    println!("a new device: {before:?} before, {after:?} afterwards");
    assert!(after.0 * 10 <= RECORDS * FIELDS * 11, "{after:?}");
}
