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

/// Connects to the primary, without time limits. Uses nothing that a pooler rejects: if there is one although there
/// should not be, the listener reports it more clearly.
pub(super) async fn connect(direct_url: &Secret, limit: Duration) -> Result<Session, SchemaError> {
    connect_with(direct_url, limit, NAME).await
}

/// The same, with a different application_name.
pub(in crate::store) async fn connect_as(direct_url: &Secret, name: &str) -> Result<Session, SchemaError> {
    connect_with(direct_url, MIGRATION_STEP_TIMEOUT, name).await
}

/// Puts the schema with the tables first in the search path, if another one comes before it: what is added to them must
/// not be made there, nor another program's migrations be taken for ours.
const AT_HOME: &str = "
select set_config('search_path', quote_ident(n.nspname) || ', ' || current_setting('search_path'), false)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = to_regclass('sync_heads') and n.nspname is distinct from current_schema()";

async fn connect_with(direct_url: &Secret, limit: Duration, name: &str) -> Result<Session, SchemaError> {
    let connector = Connector::new(direct_url, name)?;
    let session = timeout(limit, connector.open_orderly()).await??;
    timeout(limit, session.batch_execute(AT_HOME)).await??;
    Ok(session)
}
