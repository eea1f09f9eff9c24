//! Indexes are rebuilt while replicas work. `reindex concurrently` keeps the old index under another name for as long as
//! anybody uses the table, and new rows are compared with that one first.

use crate::support::*;
use serde_json::json;
use sqlx::{Connection, PgConnection};

const AT: &str = "2024-01-01T10:05:00.000Z";
/// More changes than share a statement with other pushes.
const MANY: usize = 100;

#[tokio::test]
async fn a_push_that_somebody_else_is_storing_is_stored_once_while_the_key_s_index_is_rebuilt() {
    if std::env::var(TEST_BUCKETS).is_ok() {
        return;
    }
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    let changes: Vec<_> = (0..MANY).map(|n| insert("todos", &n.to_string(), "Milk", AT)).collect();
    let body = json!({ "clientId": "phone", "since": live::NO_DELTA, "changes": changes });
    cluster.pushed(&user, "todo", body.clone()).await;
    // The rows are taken away, to be stored by another session, as a replica that got the same push would.
    let mut other = PgConnection::connect(&cluster.database_url).await.unwrap();
    let take = "set session_replication_role = replica;
        create temp table taken as select * from sync_changes;
        delete from sync_changes";
    sqlx::raw_sql(take).execute(&mut other).await.unwrap();

    let mut reader = PgConnection::connect(&cluster.database_url).await.unwrap();
    sqlx::raw_sql("begin; lock table sync_changes in access share mode").execute(&mut reader).await.unwrap();
    let mut rebuilder = PgConnection::connect(&cluster.database_url).await.unwrap();
    let rebuilding = tokio::spawn(async move {
        sqlx::raw_sql("reindex index concurrently sync_changes_pkey").execute(&mut rebuilder).await.unwrap();
    });
    let count =
        async |query: &'static str| -> i64 { sqlx::query_scalar(query).fetch_one(&cluster.pool).await.unwrap() };
    let old = "select count(*) from pg_class where relname = 'sync_changes_pkey_ccold'";
    eventually("the new index is used", async || count(old).await == 1).await;

    sqlx::raw_sql("begin; insert into sync_changes select * from taken").execute(&mut other).await.unwrap();
    let storing = async {
        let waits = "select count(*) from pg_locks where locktype = 'transactionid' and not granted
                         and pid in (select pid from pg_stat_activity where datname = current_database())";
        eventually("the push waits for the other session", async || count(waits).await == 1).await;
        sqlx::raw_sql("commit").execute(&mut other).await.unwrap();
    };
    let ((status, answer), ()) = tokio::join!(cluster.push(&user, "todo", body.clone()), storing);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(cluster.stored(&user).await, MANY as i64);
    sqlx::raw_sql("rollback").execute(&mut reader).await.unwrap();
    rebuilding.await.unwrap();
    cluster.pushed(&user, "todo", body).await;
}
