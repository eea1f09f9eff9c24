//! A connection of compaction's own, which waits for nothing without end.

use super::CompactionError;
use crate::config::{DatabaseConfig, Secret};
use crate::db::Session;
use crate::protocol::UserKey;
use crate::store::schema::{check_for_command, connect_as};
use std::time::Duration;
use tokio::time::timeout;

/// How long one piece may take until the connection is given up: a network may have forgotten it.
pub(super) const PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a replica's trimming waits for a lock, and how long a command does.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const COMMAND_LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Statements are planned by indexes and once, like those of the pool; none waits for ever, and what a process leaves behind
/// that hangs is over soon.
const SETTINGS: &str =
    "set client_min_messages = warning; set timezone = 'UTC'; set plan_cache_mode = force_generic_plan;
    set enable_seqscan = off; set jit = off; set idle_in_transaction_session_timeout = '30s'";

/// Connects to the primary, and to the tables of a schema if one is named. `statement_timeout`: how long one statement may
/// take; none for a person who waits for it.
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

/// Leads a session to the tables of a schema.
pub(in crate::store) fn search_in(schema: &str) -> String {
    format!("; set search_path = {schema}")
}

/// A connection for a command that only reads, or erases: to the bucket of a user, or to all as one.
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
