//! Whether there is something to take over, or to go on with.

use crate::db::Session;

/// Whether a takeover was begun and is not over.
pub(in crate::store) async fn is_unfinished(connection: &Session) -> Result<bool, tokio_postgres::Error> {
    connection.query_one("select to_regclass('sync_takeover') is not null", &[]).await?.try_get(0)
}

/// Whether the database holds the table of the server before us.
pub(in crate::store) async fn is_needed(connection: &Session) -> Result<bool, tokio_postgres::Error> {
    let without_log = "select not exists (select from pg_attribute where attrelid = c and attname = 'log_id')
                       from to_regclass('sync_changes') as c where c is not null";
    match connection.query_opt(without_log, &[]).await? {
        Some(row) => row.try_get(0),
        None => Ok(false),
    }
}
