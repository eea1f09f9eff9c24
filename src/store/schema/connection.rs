//! Connections for the schema.

use super::error::SchemaError;
use crate::config::Secret;
use crate::db::{Connector, Session};
use std::time::Duration;
use tokio::time::timeout;

/// How long connecting, and looking at the schema, may take: a replica that starts while its network is broken is to
/// serve soon after the network's return.
pub(in crate::store) const STEP_TIMEOUT: Duration = Duration::from_secs(2);
/// The same for a migration, which nobody repeats.
pub(super) const MIGRATION_STEP_TIMEOUT: Duration = Duration::from_secs(15);

/// What connections for the schema call themselves.
pub(in crate::store) const NAME: &str = "mana-sync migrate";

/// Has a session take as long as it needs, whatever its role or its database has as the default: for a statement, a
/// transaction, and between two statements. Those settings that the server knows.
pub(in crate::store) const UNTIMED: &str = "select set_config(name, '0', false) from pg_settings where name in
    ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout')";

/// Connects to the primary. Asks for nothing that a pooler refuses: if there is one though there should not be, the
/// listener can say so more clearly.
pub(super) async fn connect(direct_url: &Secret, limit: Duration) -> Result<Session, SchemaError> {
    connect_with(direct_url, limit, NAME).await
}

/// The same, under another name.
pub(in crate::store) async fn connect_as(direct_url: &Secret, name: &str) -> Result<Session, SchemaError> {
    connect_with(direct_url, MIGRATION_STEP_TIMEOUT, name).await
}

async fn connect_with(direct_url: &Secret, limit: Duration, name: &str) -> Result<Session, SchemaError> {
    let connector = Connector::new(direct_url, name)?;
    Ok(timeout(limit, connector.open()).await??)
}
