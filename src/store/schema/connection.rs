//! Database connections for schema work.

use super::error::SchemaError;
use crate::config::Secret;
use crate::db::{Connector, Session};
use std::time::Duration;
use tokio::time::timeout;

/// Time limit for connecting and for checking the schema: a replica that starts while its network is broken must serve
/// soon after the network is back.
pub(in crate::store) const STEP_TIMEOUT: Duration = Duration::from_secs(2);
/// The same for a migration, which nobody retries.
pub(super) const MIGRATION_STEP_TIMEOUT: Duration = Duration::from_secs(15);

/// The application_name of connections for schema work.
pub(in crate::store) const NAME: &str = "mana-sync migrate";

/// Removes a session's time limits, whatever the defaults of its role or database: on statements, on transactions, and
/// between statements. Sets only those that the server knows.
pub(in crate::store) const UNTIMED: &str = "select set_config(name, '0', false) from pg_settings where name in
    ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout')";

/// Connects to the primary. Uses nothing that a pooler rejects: if there is one although there should not be, the
/// listener reports it more clearly.
pub(super) async fn connect(direct_url: &Secret, limit: Duration) -> Result<Session, SchemaError> {
    connect_with(direct_url, limit, NAME).await
}

/// The same, with a different application_name.
pub(in crate::store) async fn connect_as(direct_url: &Secret, name: &str) -> Result<Session, SchemaError> {
    connect_with(direct_url, MIGRATION_STEP_TIMEOUT, name).await
}

async fn connect_with(direct_url: &Secret, limit: Duration, name: &str) -> Result<Session, SchemaError> {
    let connector = Connector::new(direct_url, name)?;
    Ok(timeout(limit, connector.open()).await??)
}
