//! Trimming is interrupted between any two of its statements: each one is once the last that PostgreSQL receives
//! (CRASH_STEP=1).

use super::support::cut::Cut;
use super::support::*;
use super::{APP, NOW, TABLE, at, fold, history, row, rows, said};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The number of records of two changes each, more than one piece has; and the number of changes of a record larger
/// than a piece.
const RECORDS: i64 = 300;
const LARGE: i64 = 2_100;
/// More statements than trimming these takes.
const STATEMENTS: i64 = 400;
/// Each run takes one of this many statements, a different one each time; CRASH_STEP=1 for all.
const STEP: i64 = 8;

/// Stores a log of several pieces.
async fn fill(cluster: &Cluster, user: &User) {
    let mut changes: Vec<Value> = Vec::new();
    for stamp in [1, 2, 3] {
        changes.extend((0..RECORDS).map(|n| update(TABLE, &format!("r{n:03}"), "title", stamp, &at(stamp))));
    }
    changes.extend((0..LARGE).map(|n| update(TABLE, "large", "title", n, &at(n))));
    let push = sqlx::query("select sync_push($1, $2, 'phone', $3)").bind(&user.id).bind(APP).bind(json!(changes));
    push.execute(&cluster.pool).await.unwrap();
}

/// Copies a user's log to another user, row by row, without running the triggers.
async fn copy(cluster: &Cluster, from: &User, to: &User) {
    let mut copying = cluster.pool.begin().await.unwrap();
    sqlx::query("set local session_replication_role = replica").execute(&mut *copying).await.unwrap();
    for statement in [
        "insert into sync_heads (log_id, user_key, user_id, app_id, head, previous, untrimmed_since, stored_changes, stored_bytes)
         select sync_log_id($2, app_id), sync_user_key($2), $2, app_id, head, previous, untrimmed_since, stored_changes, stored_bytes
         from sync_heads where user_id = $1",
        "insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at, log_id, size)
         select gen_random_uuid(), app_id, table_name, record_id, $2, op, data, field_timestamps, client_id, created_at,
                sync_log_id($2, app_id), size
         from sync_changes where user_id = $1",
    ] {
        sqlx::query(statement).bind(&from.id).bind(&to.id).execute(&mut *copying).await.unwrap();
    }
    copying.commit().await.unwrap();
}

type Rows = Vec<(String, String, Vec<String>)>;

/// The number of rows per record.
fn by_record(rows: &Rows) -> BTreeMap<String, usize> {
    let mut records = BTreeMap::new();
    for (record, _, fields) in rows {
        assert_eq!(fields, &["title"], "{record}");
        *records.entry(record.clone()).or_default() += 1;
    }
    records
}

async fn has_ended(cluster: &Cluster) {
    let open = "select count(*) from pg_stat_activity
        where datname = current_database() and application_name = 'mana-sync compact'";
    eventually("its sessions have ended", async || {
        sqlx::query_scalar::<_, i64>(open).fetch_one(&cluster.pool).await.unwrap() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_any_two_statements_nothing_is_half_done() {
    let cluster = Cluster::start(1).await;
    let (original, mut ends) = (cluster.user(), Vec::new());
    fill(&cluster, &original).await;
    let step = std::env::var("CRASH_STEP").map_or(STEP, |step| step.parse().unwrap());
    for statements in (rand::random_range(0..step)..STATEMENTS).step_by(step as usize) {
        let user = cluster.user();
        copy(&cluster, &original, &user).await;
        let cut = Cut::after(&cluster.database_url, statements).await;
        let mut compact = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
        compact.args(["compact", "--user", &user.id]).env("DATABASE_URL", cut.url()).envs(NOW.iter().copied());
        let output = compact.stdin(std::process::Stdio::null()).kill_on_drop(true).output().await.unwrap();
        drop(cut);
        has_ended(&cluster).await;
        let left = rows(&cluster, &user).await;
        for (record, rows) in by_record(&left) {
            let whole = if record == "large" { LARGE as usize } else { 3 };
            assert!(rows == 2 || rows == whole, "{rows} rows of {record} after {statements} statements");
        }
        let gone = 3 * RECORDS + LARGE - left.len() as i64;
        assert_eq!(history(&cluster, &user).await, gone, "after {statements} statements");
        assert!(fold::untrimmed(&cluster, &user, APP).await == fold::trimmed(&cluster, &user, APP).await);
        if gone > 0 && gone < RECORDS + LARGE - 2 {
            ends.push(gone);
        }
        said(&cluster, &["compact", "--user", &user.id], NOW).await;
        let trimmed = rows(&cluster, &user).await;
        assert_eq!(trimmed.len() as i64, 2 * RECORDS + 2);
        assert_eq!(trimmed.last(), Some(&row("large", "update", &["title"])));
        if output.status.success() {
            assert!(statements > 20 && !ends.is_empty(), "{statements} statements, ended between pieces {ends:?}");
            println!("{statements} statements");
            return;
        }
    }
    panic!("a trimming has more than {STATEMENTS} statements");
}
