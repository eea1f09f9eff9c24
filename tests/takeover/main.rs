//! `mana-sync migrate` on a database of the previous server, in either of its forms.

#[path = "../support/mod.rs"]
mod support;

mod back;
mod fold;
mod old;
mod readers;
mod refusals;
mod rights;
mod size;
mod surroundings;
mod whole;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::process::Output;
use tokio::process::Command;

/// The server binary; `MANA_SYNC_EXE` names a different build.
fn exe() -> String {
    std::env::var("MANA_SYNC_EXE").unwrap_or_else(|_| env!("CARGO_BIN_EXE_mana-sync").to_owned())
}

/// `mana-sync migrate` on this database.
fn migrate(url: &str, options: &[&str]) -> Command {
    let mut command = Command::new(exe());
    command.arg("migrate").args(options).env("DATABASE_URL", url).kill_on_drop(true);
    command
}

/// Runs it; it must succeed. Returns its output.
async fn migrated(url: &str, options: &[&str]) -> String {
    let Output { status, stdout, stderr } = migrate(url, options).output().await.unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{said}{}", String::from_utf8_lossy(&stderr));
    said
}

/// Runs it; it must fail. Returns its output.
async fn refused(url: &str, options: &[&str]) -> String {
    let Output { status, stdout, stderr } = migrate(url, options).output().await.unwrap();
    assert!(!status.success(), "{}", String::from_utf8_lossy(&stdout));
    String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// Runs a script on a connection of its own, which is closed before this returns.
async fn script(url: &str, statements: impl Into<String>) {
    let mut connection = connect(url).await;
    sqlx::raw_sql(AssertSqlSafe(statements.into())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// The single value of a query.
async fn value<T>(url: &str, query: &'static str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let mut connection = connect(url).await;
    let value = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    value
}
