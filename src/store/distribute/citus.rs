//! What a bucket has on Citus beside its tables: functions that stand for statements which Citus does not run.

use crate::db::Session;

/// What a bucket has there.
const BUCKET: &str = include_str!("citus.sql");

/// Puts into a bucket what it has on Citus, or brings it up to date.
pub(in crate::store) async fn make_functions(connection: &Session, schema: &str) -> Result<(), tokio_postgres::Error> {
    let main: String = connection.query_one("select current_setting('search_path')", &[]).await?.try_get(0)?;
    let made = connection.batch_execute(&format!("set search_path = {schema}; {BUCKET}")).await;
    connection.query("select set_config('search_path', $1, false)", &[&main]).await?;
    made
}
