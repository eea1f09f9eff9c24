//! Creates a bucket in a transaction that is undone. Once the layout is written, replicas are kept out until all logs
//! are moved, so whatever can fail had better fail before.

use super::entrances::TABLES;
use crate::db::Session;
use crate::store::migrator::{self, MigrateError};

/// The schema of that bucket.
const SCHEMA: &str = "sync_rehearsal";

/// The columns of the main schema's tables that those of the bucket do not have, or not like this.
const FOREIGN_COLUMNS: &str = "
select string_agg(format('%s of %s', m.attname, t.name), ', ' order by t.name, m.attnum)
from unnest($1::text[]) as t (name)
join pg_attribute m on m.attrelid = to_regclass(t.name) and m.attnum > 0 and not m.attisdropped
left join pg_attribute b on b.attrelid = to_regclass($2 || '.' || t.name) and b.attname = m.attname
    and (b.atttypid, b.atttypmod, b.attcollation) = (m.atttypid, m.atttypmod, m.attcollation)
where b.attname is null";

/// Lists the columns that could not be moved to a bucket; `None` if there are none.
///
/// # Errors
/// The database refuses to create a bucket.
pub(super) async fn foreign_columns(connection: &Session) -> Result<Option<String>, MigrateError> {
    let main: String = connection.query_one("select current_setting('search_path')", &[]).await?.try_get(0)?;
    let before =
        async { connection.batch_execute(&format!("create schema {SCHEMA}; set local search_path = {SCHEMA}")).await };
    let after = async {
        connection.query("select set_config('search_path', $1, true)", &[&main]).await?;
        connection.query_one(FOREIGN_COLUMNS, &[&&TABLES[..], &SCHEMA]).await?.try_get(0)
    };
    migrator::rehearse_between(connection, before, after).await
}
