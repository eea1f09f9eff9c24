//! A log that cannot be trimmed is skipped: the others are trimmed as usual.

use super::support::*;
use super::{APP, TABLE, at, command, rows, trim};
use serde_json::json;
use std::time::Duration;

const SETTINGS: &[(&str, &str)] = &[("COMPACT_AFTER_MS", "400")];

/// Stores changes of one field; all but the first and the last have lost.
async fn write(cluster: &Cluster, user: &User, app: &str) {
    for value in 0..6 {
        let changes = json!([update(TABLE, "a", "title", value, &at(value))]);
        cluster.pushed(user, app, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await;
    }
}

/// Stores this many logs of a user that are due but cannot be read.
async fn store_unreadable(cluster: &Cluster, user: &User, logs: i64) {
    for statement in [
        "insert into sync_heads (log_id, user_key, user_id, app_id, head, previous, untrimmed_since)
         select sync_log_id($1, 'app-' || n), sync_user_key($1), $1, 'app-' || n, '2024-01-02', 'epoch', '2024-01-02'
         from generate_series(1, $2) as n",
        "insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, client_id, created_at, log_id, size)
         select gen_random_uuid(), 'app-' || n, 't', 'r', $1, 'update', '[1]', 'phone', '2024-01-02', sync_log_id($1, 'app-' || n), 9
         from generate_series(1, $2) as n",
    ] {
        sqlx::query(statement).bind(&user.id).bind(logs).execute(&cluster.pool).await.unwrap();
    }
}

async fn metric(cluster: &Cluster, outcome: &str) -> f64 {
    live::metric(cluster, 0, &format!("mana_sync_compactions_total{{outcome=\"{outcome}\"}}")).await
}

/// More of them than are looked up at once, and older than any other: without pauses, no other log would get its turn.
#[tokio::test]
async fn many_logs_that_cannot_be_read_keep_nobody_waiting() {
    let cluster = Cluster::start_with(1, SETTINGS).await;
    let (broken, user) = (cluster.user(), cluster.user());
    store_unreadable(&cluster, &broken, 110).await;
    write(&cluster, &user, APP).await;
    eventually("the log that can be read is trimmed", async || rows(&cluster, &user).await.len() == 2).await;
    assert!(metric(&cluster, "unreadable").await >= 100.0);
    let kept = "select count(*) from sync_changes where user_id = $1";
    let kept: i64 = sqlx::query_scalar(kept).bind(&broken.id).fetch_one(&cluster.pool).await.unwrap();
    assert_eq!(kept, 110, "they are as they were");
}

/// A program may leave a transaction open that locks a log's head; and what the database refuses once, it may refuse
/// forever.
#[tokio::test]
async fn a_log_whose_head_is_held_and_one_that_is_refused_keep_nobody_waiting() {
    let cluster = Cluster::start_with(1, SETTINGS).await;
    let users: Vec<User> = (0..6).map(|_| cluster.user()).collect();
    let refusing = "
        create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
        create trigger refuse before delete on sync_changes for each row when (old.user_id = 'USER') execute function refuse()";
    let refusing = refusing.replace("USER", &users[0].id);
    // Before there are any changes: on a busy machine, this may take longer than trimming a log.
    sqlx::raw_sql(sqlx::AssertSqlSafe(refusing)).execute(&cluster.pool).await.unwrap();
    for user in &users {
        write(&cluster, user, APP).await;
    }
    let mut program = cluster.pool.begin().await.unwrap();
    let hold = "select from sync_heads where user_id = $1 for update";
    sqlx::query(hold).bind(&users[1].id).execute(&mut *program).await.unwrap();
    for round in 0..2 {
        for user in &users[2..] {
            eventually("the others are trimmed", async || rows(&cluster, user).await.len() <= 2).await;
        }
        for user in &users[2..] {
            let changes = json!([update(TABLE, "a", "title", "again", &at(100 + round))]);
            cluster.pushed(user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await;
        }
    }
    eventually("one was refused", async || metric(&cluster, "failed").await >= 1.0).await;
    program.rollback().await.unwrap();
    sqlx::raw_sql("drop trigger refuse on sync_changes").execute(&cluster.pool).await.unwrap();
    for user in &users[..2] {
        eventually("their turn comes", async || rows(&cluster, user).await.len() == 2).await;
    }
}

/// By hand: everything that can be trimmed is, and the command reports what could not.
#[tokio::test]
async fn the_command_goes_on_and_fails_at_the_end() {
    // Only the command trims: it does not report a log that the replica is trimming at the moment.
    let cluster = Cluster::start_with(1, &[("COMPACT_AFTER_MS", "0")]).await;
    let user = cluster.user();
    store_unreadable(&cluster, &user, 3).await;
    for app in ["one", "two", "three", "four"] {
        write(&cluster, &user, app).await;
    }
    let output = command(&cluster, &["compact", "--user", &user.id], super::NOW).await;
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}{error}");
    assert!(said.contains("7 logs") && error.contains("3 logs could not be trimmed"), "{said}{error}");
    assert_eq!(cluster.stored(&user).await, 3 + 4 * 2);
    let done = trim(&cluster, &user, Duration::ZERO, 30).await;
    assert_eq!((done.logs, done.failed), (7, 3));
}
