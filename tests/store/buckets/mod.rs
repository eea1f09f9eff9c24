//! Logs distributed over buckets: everything works as without buckets, and an unavailable bucket affects only its own
//! users.

mod away;
mod distribution;
mod killed;
mod migrations;
mod operators;
mod rehearsal;

use crate::support::live::*;
use crate::support::*;
use mana_sync::protocol::UserKey;
use mana_sync::store::Layout;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::process::{Output, Stdio};
use tokio::process::Command;

const EXE: &str = env!("CARGO_BIN_EXE_mana-sync");
const AT: &str = "2024-01-01T10:05:00.000Z";
const BUCKETS: u16 = 4;

async fn run(url: &str, arguments: &[&str]) -> Output {
    Command::new(EXE).args(arguments).env("DATABASE_URL", url).output().await.unwrap()
}

/// Runs a command that must succeed; returns its output.
async fn succeeded(url: &str, arguments: &[&str]) -> String {
    let done = run(url, arguments).await;
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Runs a command that must fail; returns its errors.
async fn failed(url: &str, arguments: &[&str]) -> String {
    let done = run(url, arguments).await;
    assert!(!done.status.success(), "{arguments:?}");
    String::from_utf8(done.stderr).unwrap()
}

async fn sql(url: &str, statement: impl Into<String>) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let statement = statement.into();
    let done = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut connection).await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

async fn number(url: &str, query: impl Into<String>) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(query.into())).fetch_one(&mut connection).await.unwrap()
}

async fn distribute(url: &str) -> String {
    succeeded(url, &["distribute", "--buckets", &BUCKETS.to_string()]).await
}

/// A cluster over a distributed database of its own.
async fn distributed(replicas: u16, settings: &[(&str, &str)]) -> Cluster {
    let url = create_database().await;
    distribute(&url).await;
    let settings: Vec<(String, String)> =
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Cluster::start_over_with(&url, replicas, settings).await
}

fn schema_of(user: &User) -> String {
    let layout = Layout::over(BUCKETS).unwrap();
    layout.schema(layout.bucket_of(UserKey::of(&user.id))).unwrap()
}

/// Creates one user per bucket, in the order of the buckets.
fn users_of_all(cluster: &Cluster) -> Vec<User> {
    let layout = Layout::over(BUCKETS).unwrap();
    let of = |schema: String| loop {
        let user = cluster.user();
        if schema_of(&user) == schema {
            return user;
        }
    };
    layout.schemas().into_iter().map(of).collect()
}

fn one(id: &str) -> Value {
    json!({ "clientId": "phone", "changes": [insert("todos", id, "Milk", AT)] })
}

#[tokio::test]
async fn each_user_is_in_one_bucket_and_everything_works_as_without() {
    let cluster = distributed(2, &[("RECONCILE_MS", "3600000")]).await;
    for user in users_of_all(&cluster) {
        let mut socket = socket(&cluster, 1, &user, None, None).await;
        let mut stream = Events::open(stream_of(&cluster, 1, &user, "collections=todos")).await;
        stream.backlog().await;
        cluster.pushed(&user, APP, one("a")).await;
        assert_eq!(woken(&mut socket).await, (APP.to_owned(), vec!["todos".to_owned()]));
        assert_eq!(stream.until("a").await, ["a"]);
        cluster.pushed(&user, APP, one("a")).await;
        assert_eq!(ids(&cluster.pulled(&user, APP, "todos", BEGINNING, None).await), ["a"], "stored once");
        let stored = format!("select count(*) from {}.sync_changes where user_id = '{}'", schema_of(&user), user.id);
        assert_eq!(number(&cluster.database_url, stored).await, 1);
        assert_eq!(cluster.stored(&user).await, 1, "the view has all");
    }
    assert_eq!(number(&cluster.database_url, "select count(*) from sync_changes_undistributed").await, 0);
}

#[tokio::test]
async fn what_no_notification_told_of_is_found_in_every_bucket() {
    let cluster = distributed(1, &[]).await;
    let users = users_of_all(&cluster);
    let mut sockets = Vec::new();
    for user in &users {
        sockets.push(socket(&cluster, 0, user, None, None).await);
    }
    for user in &users {
        // Like programs, which send no notification.
        let statement = "insert into sync_changes (app_id, table_name, record_id, user_id, op, data)
                         values ($1, 'silent', 'a', $2, 'insert', '{}') returning log_id::text";
        let log: String =
            sqlx::query_scalar(statement).bind(APP).bind(&user.id).fetch_one(&cluster.pool).await.unwrap();
        assert!(!log.is_empty(), "the row is shown as it is stored");
    }
    for socket in &mut sockets {
        assert_eq!(woken(socket).await.1, ["silent"]);
    }
}

#[tokio::test]
async fn programs_write_read_and_erase_where_they_always_did() {
    let cluster = distributed(1, &[]).await;
    for user in users_of_all(&cluster) {
        let mut socket = socket(&cluster, 0, &user, None, None).await;
        let cursor: String = sqlx::query_scalar("select sync_push($1, 'todo', 'importer', $2)")
            .bind(&user.id)
            .bind(json!([insert("todos", "pushed", "Milk", AT)]))
            .fetch_one(&cluster.pool)
            .await
            .unwrap();
        assert_eq!(cursor.len(), 27);
        woken(&mut socket).await;
        sql(&cluster.database_url, program_insert(&user)).await;
        let page = cluster.pulled(&user, "todo", "todos", BEGINNING, None).await;
        assert_eq!(ids(&page), ["pushed", "plain"]);
        assert_eq!(page["serverChanges"][1]["actor"]["kind"], "ai");
        let records = format!("select count(*) from sync_records('{}', 'todo')", user.id);
        assert_eq!(number(&cluster.database_url, records).await, 2);
        let usage = format!("select changes from sync_usage('{}')", user.id);
        assert_eq!(number(&cluster.database_url, usage).await, 2);
        sql(
            &cluster.database_url,
            format!("delete from sync_changes where user_id = '{}' and record_id = 'plain'", user.id),
        )
        .await;
        assert_eq!(cluster.stored(&user).await, 1);
        assert_eq!(number(&cluster.database_url, format!("select sync_erase('{}')", user.id)).await, 1);
        assert_eq!(cluster.stored(&user).await, 0);
    }
    let refused =
        sqlx::query("insert into sync_changes (app_id, op) values ('todo', 'insert')").execute(&cluster.pool).await;
    let code = refused.unwrap_err().as_database_error().unwrap().code().unwrap().into_owned();
    assert_eq!(code, "22023", "a row of nobody is refused as it was");
}
