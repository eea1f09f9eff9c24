//! What a trigger of the tables' owner keeps without an error is not taken for erased or trimmed. The usual one was made
//! for inserts and returns `new`, which a delete does not have.

use super::support::*;
use super::{APP, NOW, TABLE, at, command, history, rows, said};
use serde_json::json;
use sqlx::AssertSqlSafe;

/// A user with changes that lost, one of them as a whole, in a cluster whose tables have a function for triggers.
async fn filled() -> (Cluster, User) {
    let cluster = Cluster::start_with(1, &[("COMPACT_AFTER_MS", "0")]).await;
    let user = cluster.user();
    for millis in [0, 3, 5] {
        let changes = json!([
            update(TABLE, "a", "title", millis, &at(millis)),
            json!({ "table": TABLE, "id": "b", "op": "update", "fields": {
                "kept": { "value": millis, "updatedAt": at(5 - millis) },
                "title": { "value": millis, "updatedAt": at(millis) },
            } }),
        ]);
        let device = format!("device {millis}");
        cluster.pushed(&user, APP, json!({ "clientId": device, "since": BEGINNING, "changes": changes })).await;
    }
    sql(&cluster, "create function audit() returns trigger language plpgsql as $$ begin return new; end $$".to_owned())
        .await;
    (cluster, user)
}

async fn sql(cluster: &Cluster, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&cluster.pool).await.unwrap();
}

async fn refused(cluster: &Cluster, words: &[&str], table: &str) {
    let output = command(cluster, words, NOW).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && text.contains(&format!("a trigger or rule on {table} keeps rows")), "{text}");
}

#[tokio::test]
async fn nobody_is_erased_in_part() {
    let (cluster, user) = filled().await;
    said(&cluster, &["compact", "--user", &user.id], NOW).await;
    let (all, trimmed) = (rows(&cluster, &user).await, history(&cluster, &user).await);
    assert!(trimmed > 0);
    for table in ["sync_changes", "sync_history", "sync_heads"] {
        sql(
            &cluster,
            on_each(table, "create trigger audit before delete on %1$s for each row execute function public.audit()"),
        )
        .await;
        refused(&cluster, &["erase", "--user", &user.id, "--yes"], table).await;
        assert_eq!((rows(&cluster, &user).await, history(&cluster, &user).await), (all.clone(), trimmed), "{table}");
        sql(&cluster, on_each(table, "drop trigger audit on %1$s")).await;
    }
    let text = said(&cluster, &["erase", "--user", &user.id, "--yes"], &[]).await;
    assert!(text.contains(&format!("{} changes", all.len() as i64 + trimmed)), "{text}");
    assert_eq!(rows(&cluster, &user).await, []);
}

#[tokio::test]
async fn what_stays_in_a_row_is_not_kept_in_the_history_as_well() {
    let (cluster, user) = filled().await;
    let all = rows(&cluster, &user).await;
    for (event, returned) in [("delete", "null"), ("update", "null"), ("update", "old")] {
        let returns = format!(
            "create or replace function audit() returns trigger language plpgsql as $$ begin return {returned}; end $$"
        );
        sql(&cluster, returns).await;
        let put = format!("create trigger audit before {event} on %1$s for each row execute function public.audit()");
        sql(&cluster, on_each("sync_changes", &put)).await;
        for _ in 0..2 {
            refused(&cluster, &["compact", "--user", &user.id], "sync_changes").await;
            assert_eq!((rows(&cluster, &user).await, history(&cluster, &user).await), (all.clone(), 0), "{event}");
        }
        sql(&cluster, on_each("sync_changes", "drop trigger audit on %1$s")).await;
    }
    said(&cluster, &["compact", "--user", &user.id], NOW).await;
    assert!(history(&cluster, &user).await > 0);
}
