//! Detection of a takeover that is needed or unfinished.

use crate::db::Session;

/// Returns true if a takeover was started and is not finished.
pub(in crate::store) async fn is_unfinished(connection: &Session) -> Result<bool, tokio_postgres::Error> {
    connection.query_one("select to_regclass('sync_takeover') is not null", &[]).await?.try_get(0)
}

/// Returns true if the database contains the previous server's table.
pub(in crate::store) async fn is_needed(connection: &Session) -> Result<bool, tokio_postgres::Error> {
    let without_log = "select not exists (select from pg_attribute where attrelid = c and attname = 'log_id')
                       from to_regclass('sync_changes') as c where c is not null";
    match connection.query_opt(without_log, &[]).await? {
        Some(row) => row.try_get(0),
        None => Ok(false),
    }
}
