//! Compaction's own connection, with bounded waits.

use super::CompactionError;
use crate::config::{DatabaseConfig, Secret};
use crate::db::Session;
use crate::protocol::UserKey;
use crate::store::schema::{check_for_command, connect_as};
use std::time::Duration;
use tokio::time::timeout;

/// Time limit for one piece, after which the connection is abandoned: the network may have dropped it.
pub(super) const PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// Lock timeouts of a replica's trimming and of a command.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const COMMAND_LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// As in the pool, statements are planned once and use indexes. No lock is waited for forever, and a transaction left
/// behind by a hanging process ends soon.
const SETTINGS: &str =
    "set client_min_messages = warning; set timezone = 'UTC'; set plan_cache_mode = force_generic_plan;
    set enable_seqscan = off; set jit = off; set idle_in_transaction_session_timeout = '30s'";

/// Connects to the primary, and to the tables of a schema if one is named. `statement_timeout`: time limit of one
/// statement; `None` for a command that a person waits for.
pub(in crate::store) async fn connect(
    url: &Secret,
    name: &str,
    schema: Option<String>,
    statement_timeout: Option<Duration>,
) -> Result<Session, CompactionError> {
    let connection = connect_as(url, name).await?;
    let limit = statement_timeout.map_or(0, |limit| limit.as_millis());
    let locks = statement_timeout.map_or(COMMAND_LOCK_TIMEOUT, |_| LOCK_TIMEOUT).as_millis();
    let mut settings = format!("{SETTINGS}; set statement_timeout = {limit}; set lock_timeout = {locks}");
    settings.extend(schema.map(|schema| search_in(&schema)));
    timeout(PIECE_TIMEOUT, connection.batch_execute(&settings)).await??;
    Ok(connection)
}

/// Returns the statement that directs a session to the tables of a schema.
pub(in crate::store) fn search_in(schema: &str) -> String {
    format!("; set search_path = {schema}")
}

/// Connects a command that only reads or erases: to a user's bucket, or to all buckets as one.
pub(in crate::store) async fn connect_command(
    database: &DatabaseConfig,
    name: &str,
    user: Option<UserKey>,
) -> Result<Session, CompactionError> {
    let connection = connect(database.direct_url(), name, None, None).await?;
    let layout = check_for_command(&connection).await?;
    if let Some(schema) = user.and_then(|user| layout.schema(layout.bucket_of(user))) {
        connection.batch_execute(&search_in(&schema)).await?;
    }
    Ok(connection)
}
