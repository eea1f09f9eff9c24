//! Distributing the logs over buckets: `mana-sync distribute`.
//!
//! No replica may be connected. After a rehearsal that changes nothing ([`rehearsal`]), the layout is written, to keep
//! replicas from starting meanwhile. Then the buckets' schemas are created and migrated, the main schema's tables are
//! renamed and replaced by views ([`entrances`]), and the logs are moved, a few in each transaction ([`moving`]). Finally
//! Citus, if present, distributes the schemas ([`spreading`]). Progress is kept in the database, so the command can be
//! killed at any point and run again. There is no way back, and the number of buckets cannot be changed.

mod attached;
pub(super) mod citus;
pub(super) mod entrances;
mod moving;
mod rehearsal;
mod spreading;

use super::layout::{Layout, LayoutState};
use super::migrator::MigrateError;
use super::schema::{self, SchemaError};
use crate::config::Secret;
use crate::db::Session;
use attached::Security;
use entrances::{LOCK, TABLES};
use std::time::Duration;
use tokio::time::sleep;

/// The application_name of the command's connection.
const NAME: &str = "mana-sync distribute";
/// How often to check for replicas that were stopped a moment ago, and how many times.
const STOPPED_PAUSE: Duration = Duration::from_millis(300);
const STOPPED_LOOKS: usize = 10;
/// The comment that marks a schema as ours.
const MARK: &str = "A bucket of mana-sync";

/// The catalogs are sorted in memory, also where no temporary file may be written. The last one keeps Citus, if present,
/// from distributing the schemas before they have their tables.
const SETTINGS: &str = "set client_min_messages = warning; set lock_timeout = '30s'; set timezone = 'UTC';
    set enable_seqscan = off; set jit = off; set row_security = off; set work_mem = '64MB';
    select set_config('citus.enable_schema_based_sharding', 'off', false)
    where current_setting('citus.enable_schema_based_sharding', true) is not null";

/// The reason that the logs were not distributed.
#[derive(Debug, thiserror::Error)]
pub enum DistributeError {
    /// The schema cannot be read or migrated.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A step failed; what was done so far is kept.
    #[error("the database refused a step; what was done so far is kept, run the command again")]
    Database(#[from] tokio_postgres::Error),
    /// A client that may write is connected.
    #[error("replicas or commands are connected to this database: {0}. Stop them first; start them again afterwards")]
    Connected(String),
    /// The role lacks a right that a step needs.
    #[error("the role that distributes the logs lacks a right: {0}. Nothing was changed")]
    Rights(String),
    /// Another session is distributing the logs.
    #[error("another session is already distributing the logs")]
    Running,
    /// The logs are distributed over a different number of buckets.
    #[error("the logs are distributed over {now} buckets already, which cannot be changed")]
    Distributed {
        /// The current number of buckets.
        now: usize,
    },
    /// The distribution was started with a different number of buckets.
    #[error("the logs are being distributed over {begun} buckets: run the command again with that number")]
    Begun {
        /// The number of buckets it was started with.
        begun: usize,
    },
    /// A schema that is not ours has the name of a bucket.
    #[error("the schema {0} exists and is not ours: rename it first")]
    Foreign(String),
    /// Citus has no server to put the buckets on.
    #[error("Citus has no server that may hold a bucket: add workers first (citus_add_node)")]
    NoWorkers,
    /// This server is a worker.
    #[error("this server is a worker of a Citus cluster: use the URL of its coordinator")]
    NotCoordinator,
    /// Somebody has attached an object to the tables that would not see the contents of the buckets.
    #[error(
        "these objects are attached to the tables, which will be empty: {0}. Drop them, and recreate what is still needed afterwards (docs/buckets.md)"
    )]
    Attached(String),
    /// The tables have columns that those of buckets do not have.
    #[error(
        "these columns are not those of this version's tables, and buckets would not have them: {0}. Drop them or change them back; what is still needed can be added to the tables of each bucket afterwards (docs/buckets.md). Nothing was changed"
    )]
    Columns(String),
    /// The database refuses to create a bucket.
    #[error("a bucket cannot be created. Nothing was changed")]
    Refused(#[source] MigrateError),
    /// Row-level security that would no longer be effective afterwards.
    #[error(
        "row-level security is on for the tables, but is not that of deploy/row_level_security.sql: it would restrict nobody afterwards. Turn it off first (alter table … disable row level security, no force row level security)"
    )]
    ForeignSecurity,
    /// Our row-level security for programs, where buckets cannot have it.
    #[error(
        "row-level security is on for programs (deploy/row_level_security.sql), which buckets support only from PostgreSQL 15 on, and not on Citus: programs would see the rows of all users. Revoke their rights on the tables and turn it off first"
    )]
    UnsupportedSecurity,
}

/// The progress of the command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Logs moved in this run.
    pub moved: u64,
    /// Logs to be moved in this run.
    pub logs: u64,
    /// Changes moved with them.
    pub changes: u64,
    /// Buckets distributed by Citus.
    pub spread: u64,
    /// Buckets to be distributed by Citus; 0 before it starts.
    pub buckets: u64,
}

/// The result of the command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distributed {
    /// The totals of what was moved.
    pub progress: Progress,
    /// True if Citus has distributed the buckets.
    pub on_citus: bool,
    /// Rows of no log, which no device can read. They were left in the main schema's tables.
    pub left_behind: i64,
}

/// Distributes the logs over this many buckets, and reports the progress. Migrates the schema first. Returns `None` if
/// they are distributed already.
///
/// # Errors
/// The database refused, or is not in a suitable state. What was moved stays moved.
pub async fn run(
    direct_url: &Secret,
    layout: Layout,
    say: &mut (dyn FnMut(Progress) + Send),
) -> Result<Option<Distributed>, DistributeError> {
    schema::migrate(direct_url).await?;
    let connection = schema::connect_as(direct_url, NAME).await?;
    connection.batch_execute(SETTINGS).await?;
    schema::check_not_too_new(&connection).await?;
    let free: bool = connection.query_one("select pg_try_advisory_lock($1)", &[&LOCK]).await?.try_get(0)?;
    if !free {
        return Err(DistributeError::Running);
    }
    let on_citus = spreading::is_present(&connection).await?;
    if on_citus {
        spreading::check(&connection).await?;
    }
    let layout = layout.with_citus(on_citus);
    let now = LayoutState::read(&connection).await?;
    if on_citus && matches!(now, LayoutState { layout, is_moving: false } if layout != Layout::ONE) {
        check_security(&connection, now.layout, on_citus).await?;
    }
    match now {
        LayoutState { layout: now, is_moving: false } if now == layout => return Ok(None),
        LayoutState { layout: Layout::ONE, .. } => {
            check_security(&connection, now.layout, on_citus).await?;
            begin(&connection, layout).await?;
        }
        // Citus was added later.
        LayoutState { layout: now, is_moving: false } if now.with_citus(on_citus) == layout => {
            go_on(&connection).await?;
        }
        LayoutState { layout: now, is_moving: false } => {
            return Err(DistributeError::Distributed { now: now.count() });
        }
        LayoutState { layout: begun, .. } if begun.count() != layout.count() => {
            return Err(DistributeError::Begun { begun: begun.count() });
        }
        LayoutState { .. } => none_connected(&connection).await?,
    }
    for schema in layout.schemas() {
        make_schema(&connection, &schema).await?;
    }
    entrances::make(&connection, LayoutState { layout, is_moving: true }).await?;
    let progress = moving::move_all(&connection, layout, say).await?;
    let left_behind = moving::left_behind(&connection).await?;
    if on_citus {
        spreading::distribute(&connection, layout, say).await?;
    }
    entrances::finish(&connection, layout).await?;
    connection.close().await;
    Ok(Some(Distributed { progress, on_citus, left_behind }))
}

/// Writes the layout, after which no replica starts to serve; reverts it if one was connected already.
async fn begin(connection: &Session, layout: Layout) -> Result<(), DistributeError> {
    none_connected(connection).await?;
    if let Some(missing) = missing_right(connection).await? {
        return Err(DistributeError::Rights(missing));
    }
    if let Some(attached) = attached::to_tables(connection).await? {
        return Err(DistributeError::Attached(attached));
    }
    for schema in layout.schemas() {
        if connection.query_opt("select from pg_namespace where nspname = $1", &[&schema]).await?.is_some() {
            return Err(DistributeError::Foreign(schema));
        }
    }
    if let Some(columns) = rehearsal::foreign_columns(connection).await.map_err(DistributeError::Refused)? {
        return Err(DistributeError::Columns(columns));
    }
    let buckets = layout.count() as i32;
    connection.execute("insert into sync_layout (buckets, is_moving) values ($1, true)", &[&buckets]).await?;
    // A replica that checked earlier may have connected since.
    let alone = none_connected(connection).await;
    if alone.is_err() {
        connection.batch_execute("delete from sync_layout").await?;
    }
    alone
}

/// Returns a right that the role lacks for the steps; `None` if it has all. Otherwise, no replica could start half-way.
/// CREATE on the main schema is not checked, because the migrations have needed it already.
async fn missing_right(connection: &Session) -> Result<Option<String>, DistributeError> {
    let missing = "
        select case
            when not has_database_privilege(current_database(), 'CREATE')
                then format('CREATE on database %I', current_database())
            else (select 'to be the owner of ' || string_agg(c.relname, ', ')
                  from pg_class c join unnest($1::text[]) as t (name) on c.oid = to_regclass(t.name)
                  where not pg_has_role(c.relowner, 'USAGE'))
        end";
    Ok(connection.query_one(missing, &[&&TABLES[..]]).await?.try_get(0)?)
}

/// Fails if row-level security would no longer be effective afterwards.
async fn check_security(connection: &Session, now: Layout, on_citus: bool) -> Result<(), DistributeError> {
    match attached::security(connection, &now.schemas()).await? {
        Security::Off => Ok(()),
        Security::Carried if !on_citus => Ok(()),
        Security::Carried | Security::Unsupported => Err(DistributeError::UnsupportedSecurity),
        Security::Foreign => Err(DistributeError::ForeignSecurity),
    }
}

/// Marks a finished distribution as moving again, after which no replica starts to serve; reverts it if one was
/// connected already.
async fn go_on(connection: &Session) -> Result<(), DistributeError> {
    none_connected(connection).await?;
    connection.batch_execute("update sync_layout set is_moving = true").await?;
    let alone = none_connected(connection).await;
    if alone.is_err() {
        connection.batch_execute("update sync_layout set is_moving = false").await?;
    }
    alone
}

/// Fails while replicas, or commands other than this one, are connected.
async fn none_connected(connection: &Session) -> Result<(), DistributeError> {
    // A replica that waits for this to end checks the schema now and then, under the name of the migration.
    let who = "
        select string_agg(distinct application_name, ', ') from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and application_name like 'mana-sync %'
          and application_name not in ('mana-sync distribute', 'mana-sync migrate')";
    let mut connected = None;
    for _ in 0..STOPPED_LOOKS {
        connected = connection.query_one(who, &[]).await?.try_get::<_, Option<String>>(0)?;
        if connected.is_none() {
            return Ok(());
        }
        sleep(STOPPED_PAUSE).await;
    }
    connected.map_or(Ok(()), |who| Err(DistributeError::Connected(who)))
}

/// Creates a bucket's schema, with its tables.
async fn make_schema(connection: &Session, schema: &str) -> Result<(), DistributeError> {
    let marked = "select obj_description(oid, 'pg_namespace') = $2 from pg_namespace where nspname = $1";
    match connection.query_opt(marked, &[&schema, &MARK]).await? {
        None => {
            let make = format!("begin; create schema {schema}; comment on schema {schema} is '{MARK}'; commit");
            connection.batch_execute(&make).await?;
        }
        Some(row) if row.try_get::<_, Option<bool>>(0)? == Some(true) => {}
        Some(_) => return Err(DistributeError::Foreign(schema.to_owned())),
    }
    Ok(schema::migrate_bucket(connection, schema).await?)
}
