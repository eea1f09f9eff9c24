//! Readers connected during a takeover: the previous server, which was not stopped.

use super::old::{Form, database};
use super::{connect, migrate};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

const ROWS: i64 = 20_000;

/// Runs a query; returns its count, or `None` if the table does not exist.
async fn asked(connection: &mut PgConnection, statement: &'static str) -> Option<i64> {
    match sqlx::query_scalar(statement).fetch_one(connection).await {
        Ok(rows) => Some(rows),
        Err(error) => {
            assert_eq!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("42P01"), "{error}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_find_all_of_it_or_no_table_and_never_a_part() {
    for form in [Form::Older, Form::Newest] {
        let url = database(form, ROWS as u32, 7).await;
        let mut taking = migrate(&url, &["--while-connected"]).stdout(std::process::Stdio::null()).spawn().unwrap();
        let mut readers = JoinSet::new();
        // The previous server's query, and one for all rows.
        let statements = [
            "select count(*) from sync_changes",
            "select count(*) from sync_changes where user_id like 'user-%' and app_id in ('todo', 'notes', 'ai') and created_at > '1970-01-01'",
        ];
        for statement in statements {
            let url = url.clone();
            readers.spawn(async move {
                let mut connection = connect(&url).await;
                let mut without_table = 0;
                // Until the table is back.
                while without_table == 0 || asked(&mut connection, statement).await.is_none() {
                    match asked(&mut connection, statement).await {
                        Some(rows) => assert_eq!(rows, ROWS),
                        None => without_table += 1,
                    }
                }
                assert_eq!(asked(&mut connection, statement).await, Some(ROWS));
                connection.close().await.unwrap();
                without_table
            });
        }
        while let Some(without_table) = readers.join_next().await {
            assert!(without_table.unwrap() > 0);
        }
        assert!(taking.wait().await.unwrap().success());
    }
}
