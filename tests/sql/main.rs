//! Programs that write and read SQL beside the replicas (docs/sql.md).

#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod inserts;
mod names;
mod push;
mod reads;
mod rights;
mod rows;
mod together;
mod wakeups;

use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgRow;
use support::*;

const AT: &str = "2024-01-01T10:05:00.000Z";

/// Runs a composed statement.
async fn rows(cluster: &Cluster, statement: impl Into<String>) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query(AssertSqlSafe(statement.into())).fetch_all(&cluster.pool).await
}

/// Runs a statement that must succeed.
async fn sql(cluster: &Cluster, statement: impl Into<String>) -> Vec<PgRow> {
    let statement = statement.into();
    rows(cluster, &statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"))
}

/// Returns PostgreSQL's message about a refused value; any other error fails the test.
#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, sqlx::Error>) -> String {
    let error = result.expect_err("it must be refused");
    let database = error.as_database_error().unwrap_or_else(|| panic!("{error}"));
    assert_eq!(database.code().as_deref(), Some("22023"), "{error}");
    database.message().to_owned()
}

/// Calls `sync_push`; returns the cursor.
async fn sync_push(cluster: &Cluster, user: &User, client: &str, changes: &Value) -> Result<String, sqlx::Error> {
    let statement = sqlx::query_scalar("select sync_push($1, 'todo', $2, $3)");
    statement.bind(&user.id).bind(client).bind(changes).fetch_one(&cluster.pool).await
}
