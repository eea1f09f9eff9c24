//! Applies migrations, and rejects a schema that this version cannot work with.
//!
//! Migrations expand first, and contract in a later version, so that old and new replicas can run side by side during a
//! rollout: a schema newer than the replica is fine until a migration contracts. A migration that removes something
//! older replicas use must say so in a comment on the table of heads: `comment on table sync_heads is 'replicas must
//! know migration 7'`.

mod connection;
mod error;
mod renamed;

pub(super) use connection::{NAME, STEP_TIMEOUT, connect_as};
pub use error::SchemaError;

use super::distribute::{citus, entrances};
use super::fitness::Unfit;
use super::layout::{Layout, LayoutState};
use super::migrator::{self, MIGRATIONS};
use super::takeover::state::{is_needed, is_unfinished};
use crate::config::Secret;
use crate::db::Session;
use connection::{MIGRATION_STEP_TIMEOUT, connect};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;

/// The migration that added the layout table.
const LAYOUT_MIGRATION: i64 = 11;

/// This table belongs to sqlx.
const APPLIED: &str = "select version from _sqlx_migrations order by version";
/// The schema in the search path that has this table, and whether the role may use it.
const SCHEMA_OF_MIGRATIONS: &str = "
select quote_ident(n.nspname), has_schema_privilege(n.oid, 'USAGE')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relname = '_sqlx_migrations'
  and n.nspname = any(select replace(btrim(path, ' \"'), '$user', session_user)
                      from unnest(string_to_array(current_setting('search_path'), ',')) path)
order by 2 limit 1";
/// See the top of this file.
const OLDEST_REPLICA: &str = "select substring(obj_description(to_regclass('sync_heads'), 'pg_class') from 'replicas must know migration (\\d+)')::int8";

/// Applies missing migrations. Safe to run concurrently: an advisory lock admits one process at a time. The URL must
/// lead to PostgreSQL itself, because a transaction pooler would leave the lock behind.
pub async fn migrate(direct_url: &Secret) -> Result<Migrated, SchemaError> {
    let connection = connect(direct_url, MIGRATION_STEP_TIMEOUT).await?;
    // Otherwise the server reports every time that the migrations table exists already.
    let settings = "set client_min_messages = warning";
    timeout(MIGRATION_STEP_TIMEOUT, connection.batch_execute(settings)).await??;
    timeout(MIGRATION_STEP_TIMEOUT, check_encoding(&connection)).await??;
    timeout(MIGRATION_STEP_TIMEOUT, check_writable(&connection)).await??;
    if timeout(MIGRATION_STEP_TIMEOUT, is_needed(&connection)).await?? {
        return Err(SchemaError::ServerBefore);
    }
    if timeout(MIGRATION_STEP_TIMEOUT, is_unfinished(&connection)).await?? {
        return Err(SchemaError::Unfinished);
    }
    let before = timeout(MIGRATION_STEP_TIMEOUT, applied(&connection)).await??;
    let state = if before.contains(&LAYOUT_MIGRATION) { Some(LayoutState::read(&connection).await?) } else { None };
    let is_missing = MIGRATIONS.iter().any(|migration| !before.contains(&migration.version));
    // Buckets first: the views of the main schema include the columns that a migration adds to their tables.
    let layout = state.filter(|state| !state.is_moving).map(|state| state.layout).unwrap_or_default();
    for schema in layout.schemas() {
        migrate_bucket(&connection, &schema).await?;
        if layout.is_on_citus() {
            citus::make_functions(&connection, &schema).await?;
        }
    }
    match state.filter(|state| state.layout != Layout::ONE) {
        // The distribution creates and migrates what it needs. The schema must not change while it is under way.
        Some(LayoutState { is_moving: true, .. }) if is_missing => return Err(SchemaError::MovingByEarlier),
        // Its tables are renamed, and views have their names.
        Some(state) if is_missing || entrances::are_set_aside(&connection).await? => {
            entrances::migrate(&connection, state).await?;
        }
        // May take as long as it needs.
        _ => migrator::run(&connection).await?,
    }
    connection.batch_execute(renamed::FOLLOW).await?;
    let after = timeout(MIGRATION_STEP_TIMEOUT, applied(&connection)).await??;
    connection.close().await;
    Ok(Migrated { version: after.last().copied().unwrap_or(0), applied: after.len() - before.len() })
}

/// Applies missing migrations during a takeover, while the table of changes has another name: in one transaction, so
/// that nobody finds it empty meanwhile.
pub(super) async fn migrate_hidden(connection: &Session, hidden: &str) -> Result<(), SchemaError> {
    check_encoding(connection).await?;
    let applied = applied(connection).await?;
    let is_hidden = connection.query_one("select to_regclass($1) is not null", &[&hidden]).await?.try_get(0)?;
    if is_hidden && MIGRATIONS.iter().all(|migration| applied.contains(&migration.version)) {
        return Ok(());
    }
    let show = if is_hidden { format!("alter table {hidden} rename to sync_changes") } else { String::new() };
    let hide = format!("alter table sync_changes rename to {hidden}");
    Ok(migrator::run_between(connection, connection.batch_execute(&show), connection.batch_execute(&hide)).await?)
}

/// Applies missing migrations in a bucket's schema, and returns the connection to the main schema.
pub(super) async fn migrate_bucket(connection: &Session, schema: &str) -> Result<(), SchemaError> {
    let main: String = connection.query_one("select current_setting('search_path')", &[]).await?.try_get(0)?;
    connection.batch_execute(&format!("set search_path = {schema}")).await?;
    let migrated = migrator::run(connection).await;
    connection.query("select set_config('search_path', $1, false)", &[&main]).await?;
    Ok(migrated?)
}

/// The rights of the replicas' role.
const GRANTS: &str = include_str!("../../deploy/grants.sql");

/// Grants the replicas' role its rights on this schema, and sets its password if one is given, all or nothing. May be
/// repeated, and must be after each migration. The password itself is not sent, only PostgreSQL's verifier for it.
///
/// # Errors
/// The role is missing and may not be created, the password may not be set, or the tables belong to somebody else.
pub async fn grant(direct_url: &Secret, password: Option<&Secret>) -> Result<(), SchemaError> {
    let connection = connect(direct_url, MIGRATION_STEP_TIMEOUT).await?;
    let mut statements = GRANTS.to_owned();
    if let Some(password) = password {
        // Base64 and a few other characters: nothing in it ends the literal.
        let verifier = postgres_protocol::password::scram_sha_256(password.expose().as_bytes());
        statements.push_str(&format!("\nalter role mana_sync_replica password '{verifier}';\n"));
    }
    timeout(MIGRATION_STEP_TIMEOUT, connection.batch_execute(&statements)).await??;
    connection.close().await;
    Ok(())
}

/// The result of applying migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The version of the schema now.
    pub version: i64,
    /// The number of migrations that were applied.
    pub applied: usize,
}

/// Returns the versions that have been applied, ascending.
async fn applied(session: &Session) -> Result<Vec<i64>, SchemaError> {
    let read = session.query(APPLIED, &[]).await;
    let rows = match read {
        // No migrations table: nothing was ever applied, unless the table is where this role may not look.
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            match session.query_opt(SCHEMA_OF_MIGRATIONS, &[]).await? {
                None => {
                    let has_schema = "select current_schema() is not null";
                    let has_schema: bool = session.query_one(has_schema, &[]).await?.try_get(0)?;
                    return if has_schema { Ok(Vec::new()) } else { Err(Unfit::NoSchema.into()) };
                }
                // It was granted or created in the meantime.
                Some(row) if row.try_get(1)? => session.query(APPLIED, &[]).await,
                Some(row) => {
                    return Err(Unfit::SchemaRights(format!("USAGE on schema {}", row.try_get::<_, &str>(0)?)).into());
                }
            }
        }
        read => read,
    };
    match rows {
        Ok(rows) => Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            Err(Unfit::SchemaRights("SELECT on _sqlx_migrations".to_owned()).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Checks that this version can work with the schema: all migrations that it knows have been applied, and none that it
/// does not know has removed something it needs. Returns how the logs are distributed.
pub async fn check(direct_url: &Secret) -> Result<Layout, SchemaError> {
    let mut connection = connect(direct_url, STEP_TIMEOUT).await?;
    timeout(STEP_TIMEOUT, check_on(&connection)).await??;
    let LayoutState { layout, is_moving } = timeout(STEP_TIMEOUT, LayoutState::read(&connection)).await??;
    if is_moving {
        return Err(SchemaError::Moving);
    }
    for schema in layout.schemas() {
        match timeout(STEP_TIMEOUT, check_bucket(&connection, &schema)).await {
            Ok(checked) => checked?,
            // The query went to a server that is down. This session is left waiting for it.
            Err(_) if layout.is_on_citus() => {
                tracing::warn!(schema, "the server of a bucket does not answer; its users cannot sync");
                connection = connect(direct_url, STEP_TIMEOUT).await?;
            }
            Err(elapsed) => return Err(elapsed.into()),
        }
    }
    connection.close().await;
    Ok(layout)
}

/// Makes the same check for a command, and returns the layout. Fails if logs are still being moved. A role that may not
/// read the migrations learns what is missing from its own statements.
pub(super) async fn check_for_command(connection: &Session) -> Result<Layout, SchemaError> {
    match applied(connection).await {
        Ok(applied) => check_versions(connection, &applied).await?,
        Err(SchemaError::Unfit(Unfit::SchemaRights(_))) => {}
        Err(error) => return Err(error),
    }
    match LayoutState::read(connection).await {
        Ok(LayoutState { is_moving: true, .. }) => Err(SchemaError::Moving),
        Ok(LayoutState { layout, .. }) => Ok(layout),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            Err(SchemaError::TooOld { missing: LAYOUT_MIGRATION })
        }
        Err(error) => Err(error.into()),
    }
}

/// Fails if a bucket's schema is too old. An unavailable bucket is no reason not to serve the users of the others.
async fn check_bucket(connection: &Session, schema: &str) -> Result<(), SchemaError> {
    let rows = match connection.query(&format!("select version from {schema}._sqlx_migrations"), &[]).await {
        Ok(rows) => rows,
        Err(error) if error.is_closed() => return Err(error.into()),
        Err(error) => {
            tracing::warn!(
                schema,
                error = &error as &dyn std::error::Error,
                "a bucket is unavailable; its users cannot sync"
            );
            return Ok(());
        }
    };
    let applied: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    match MIGRATIONS.iter().map(|migration| migration.version).find(|version| !applied.contains(version)) {
        Some(missing) => Err(SchemaError::BucketTooOld { schema: schema.to_owned(), missing }),
        None => Ok(()),
    }
}

/// Fails for a database that cannot hold every text. The migrations themselves contain characters that need UTF-8.
async fn check_encoding(connection: &Session) -> Result<(), SchemaError> {
    let row = connection.query_one("select current_setting('server_encoding')", &[]).await?;
    match row.try_get(0)? {
        "UTF8" => Ok(()),
        other => Err(Unfit::Encoding(other.to_owned()).into()),
    }
}

/// Fails for a read-only session, in which a migration would only report that some statement failed.
async fn check_writable(connection: &Session) -> Result<(), SchemaError> {
    const WRITABLE: &str = "select pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";
    let row = connection.query_one(WRITABLE, &[]).await?;
    match (row.try_get(0)?, row.try_get(1)?) {
        (true, _) => Err(Unfit::Standby.into()),
        (_, true) => Err(Unfit::ReadOnly.into()),
        _ => Ok(()),
    }
}

async fn check_on(connection: &Session) -> Result<(), SchemaError> {
    check_encoding(connection).await?;
    let applied = applied(connection).await?;
    check_versions(connection, &applied).await?;
    let known = newest_known();
    if let Some(newest) = applied.iter().max().filter(|newest| **newest > known) {
        tracing::info!(newest, known, "the schema is newer than this replica, but compatible");
    }
    Ok(())
}

/// Returns the newest migration of this version.
pub(super) fn newest_known() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

async fn check_versions(connection: &Session, applied: &[i64]) -> Result<(), SchemaError> {
    if is_unfinished(connection).await? {
        return Err(SchemaError::Unfinished);
    }
    let missing = MIGRATIONS.iter().map(|migration| migration.version).find(|version| !applied.contains(version));
    if let Some(missing) = missing {
        return Err(SchemaError::TooOld { missing });
    }
    check_not_too_new(connection).await
}

/// Fails if the schema requires a newer version than this one.
pub(super) async fn check_not_too_new(connection: &Session) -> Result<(), SchemaError> {
    let needed: Option<i64> = connection.query_one(OLDEST_REPLICA, &[]).await?.try_get(0)?;
    let known = newest_known();
    match needed.filter(|needed| *needed > known) {
        Some(needed) => Err(SchemaError::TooNew { needed, known }),
        None => Ok(()),
    }
}
