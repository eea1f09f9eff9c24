//! Additional objects of a bucket on Citus: functions that replace statements Citus does not run.

use crate::db::Session;

/// Those objects.
const BUCKET: &str = include_str!("citus.sql");

/// Creates these objects in a bucket, or brings them up to date.
pub(in crate::store) async fn make_functions(connection: &Session, schema: &str) -> Result<(), tokio_postgres::Error> {
    let main: String = connection.query_one("select current_setting('search_path')", &[]).await?.try_get(0)?;
    let made = connection.batch_execute(&format!("set search_path = {schema}; {BUCKET}")).await;
    connection.query("select set_config('search_path', $1, false)", &[&main]).await?;
    made
}
