//! Queries for operators: what a user has stored, from which devices, and the state of the database.
//!
//! On a separate connection, never from the pool: an operator investigates when the pool is exhausted, and takes no
//! connection from it.

use super::compaction::CompactionError;
use super::layout::Layout;
use super::logged_change::LoggedChange;
use crate::protocol::merge::StoredChange;
use crate::protocol::push::Op;
use crate::protocol::{Log, LogId, UserKey};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

/// Maximum number of logs listed.
pub const MAX_LOGS: usize = 200;
/// Maximum number of changes counted for a user, over all of the user's logs: an operator may inspect a user with very
/// many of them, repeatedly.
pub const MAX_COUNTED: usize = 10_000;
/// Minimum number counted per log, however many logs there are.
const MIN_COUNTED: usize = 50;
/// Maximum number of a user's devices shown.
pub const MAX_DEVICES: usize = 500;
/// Maximum number of a record's changes shown.
pub const MAX_CHANGES: usize = 1_000;
/// Maximum bytes of those changes, unless the newest alone is larger.
const MAX_BYTES: i64 = 4 << 20;

/// A log of a user.
#[derive(Debug)]
pub struct StoredLog {
    /// Its id.
    pub log: LogId,
    /// The app.
    pub app: String,
    /// The position of the newest change.
    pub head: i64,
    /// Its contents, if they were counted.
    pub content: Content,
}

/// The contents of a log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Content {
    /// The number of changes.
    pub changes: i64,
    /// Their bytes.
    pub bytes: i64,
    /// The number of tables.
    pub tables: i64,
    /// True if there are older changes, which are not counted.
    pub more: bool,
}

/// A device that pushed one of the counted changes.
#[derive(Debug)]
pub struct StoredDevice {
    /// The app.
    pub app: String,
    /// The device.
    pub device: String,
    /// The number of counted changes that it pushed.
    pub changes: i64,
    /// The position of its newest change.
    pub pushed: i64,
}

/// The state of PostgreSQL, as seen by the replica that asks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DatabaseState {
    /// The version of PostgreSQL.
    pub version: String,
    /// The size of the database, in bytes.
    pub bytes: i64,
    /// The size of `sync_changes` with its indexes, in bytes.
    pub log_bytes: i64,
    /// The number of stored changes, estimated from statistics.
    pub changes: i64,
    /// The number of logs.
    pub logs: i64,
    /// Open connections from all clients.
    pub connections: i64,
    /// The maximum number of connections.
    pub max_connections: i64,
    /// The age of the oldest open transaction, in seconds.
    pub oldest_transaction_seconds: f64,
    /// The age of the oldest unfrozen row, in transaction ids; at 2,000 million, PostgreSQL stops.
    pub transaction_age: i64,
}

/// The reason that a query for operators failed.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The database could not be queried.
    #[error("cannot query the database")]
    Database(#[from] tokio_postgres::Error),
    /// A stored change cannot be decoded.
    #[error("a stored change cannot be read")]
    Unreadable(#[from] CompactionError),
    /// A stored change has an invalid id or operation.
    #[error("a stored change has an invalid id or operation")]
    UnknownChange,
}

const LOGS: &str = "
select log_id::text, app_id, (extract(epoch from head) * 1000000)::int8
from sync_heads where user_key = $1::text::uuid order by head desc limit $2";

/// Reads only the newest changes of each log, along the index.
const CONTENTS: &str = "
select h.log_id::text, c.changes, c.bytes, c.tables
from (select log_id from sync_heads where user_key = $1::text::uuid order by head desc limit $2) h
cross join lateral (
    select count(*), coalesce(sum(size), 0)::int8, count(distinct table_name)
    from (select size, table_name from sync_changes where log_id = h.log_id order by created_at desc limit $3) newest
) as c (changes, bytes, tables)";

const DEVICES: &str = "
select h.app_id, c.client_id, count(*), (extract(epoch from max(c.created_at)) * 1000000)::int8 as pushed
from (select log_id, app_id from sync_heads where user_key = $1::text::uuid order by head desc limit $2) h
cross join lateral (
    select client_id, created_at from sync_changes where log_id = h.log_id order by created_at desc limit $3
) as c
group by h.app_id, c.client_id
order by pushed desc
limit $4";

const RECORD: &str = "
select id::text, (extract(epoch from created_at) * 1000000)::int8, op, data::text, field_timestamps::text, client_id,
       (extract(epoch from trimmed_at) * 1000000)::int8, found
from (
    select newest.*, count(*) over () as found,
           sum(size) over (order by created_at desc, trimmed_at desc rows unbounded preceding) - size as before
    from (
        select changes.*, coalesce(octet_length(data::text), 0) + octet_length(field_timestamps::text) as size
        from (
            select id, created_at, op, data, field_timestamps, client_id, null::timestamptz as trimmed_at
            from sync_changes where log_id = $1::text::uuid and table_name = $2 and record_id = $3
            union all
            select id, created_at, op, data, field_timestamps, client_id, trimmed_at
            from sync_history where log_id = $1::text::uuid and table_name = $2 and record_id = $3
        ) as changes
        order by created_at desc, trimmed_at desc
        limit $4
    ) as newest
) as told
where before < $5
order by created_at desc, trimmed_at desc";

/// The tables of the log are in this schema, or in those of the buckets.
const STATE: &str = "
with log_tables as materialized (
    select c.oid, c.relname, c.reltuples from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relname in ('sync_changes', 'sync_heads') and c.relkind = 'r'
      and (n.nspname = current_schema() or n.nspname ~ '^sync_b[0-9]{2}$')
)
select current_setting('server_version'), pg_database_size(current_database()),
       (select coalesce(sum(pg_total_relation_size(oid)), 0)::int8 from log_tables),
       (select coalesce(sum(greatest(reltuples, 0)), 0)::int8 from log_tables where relname = 'sync_changes'),
       (select coalesce(sum(greatest(reltuples, 0)), 0)::int8 from log_tables where relname = 'sync_heads'),
       (select count(*) from pg_stat_activity where backend_type = 'client backend'),
       current_setting('max_connections')::int8,
       (select coalesce(greatest(extract(epoch from max(now() - xact_start)), 0), 0)::float8 from pg_stat_activity
        where backend_type = 'client backend' and pid <> pg_backend_pid()),
       (select max(age(datfrozenxid))::int8 from pg_database)";

/// What each server of a Citus cluster reports about its part: the rows are there, in tables with a number after their
/// name. A server that is down reports nothing, and the query succeeds without it.
const STATE_OF_ALL: &str = "
select coalesce(sum((w.said ->> 'bytes')::int8), 0)::int8, coalesce(sum((w.said ->> 'log_bytes')::int8), 0)::int8,
       coalesce(sum((w.said ->> 'changes')::int8), 0)::int8, coalesce(sum((w.said ->> 'logs')::int8), 0)::int8,
       coalesce(max((w.said ->> 'open')::float8), 0), coalesce(max((w.said ->> 'age')::int8), 0)::int8
from (
    select case when success then result::jsonb end as said from run_command_on_all_nodes($command$
        with log_tables as materialized (
            select c.oid, c.relname, c.reltuples from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where c.relname ~ '^sync_(changes|heads)_[0-9]+$' and c.relkind = 'r' and n.nspname ~ '^sync_b[0-9]{2}$'
        )
        select jsonb_build_object(
            'bytes', pg_database_size(current_database()),
            'log_bytes', (select sum(pg_total_relation_size(oid)) from log_tables),
            'changes', (select sum(greatest(reltuples, 0))::int8 from log_tables where relname like 'sync_changes%'),
            'logs', (select sum(greatest(reltuples, 0))::int8 from log_tables where relname like 'sync_heads%'),
            'open', (select extract(epoch from max(now() - xact_start)) from pg_stat_activity
                     where backend_type = 'client backend' and pid <> pg_backend_pid()),
            'age', (select max(age(datfrozenxid)) from pg_database))::text
    $command$)
) as w";

/// A server that is frozen would not fail a query on a connection that exists, and one that is opened only after 30 s.
const SHORT_WAITS: &str = "set citus.node_connection_timeout = '2s'; set citus.max_cached_conns_per_worker = 0";

/// Returns a user's logs, the most recently changed first; their contents are not counted yet.
pub async fn logs(client: &Client, user: UserKey) -> Result<Vec<StoredLog>, InspectError> {
    let (user, limit) = (user.0.to_string(), MAX_LOGS as i64);
    let rows = client.query_typed(LOGS, &[(&user, Type::TEXT), (&limit, Type::INT8)]).await?;
    let read = |row: &Row| {
        let log = LogId(uuid(row.try_get(0)?)?);
        Ok(StoredLog { log, app: row.try_get(1)?, head: row.try_get(2)?, content: Content::default() })
    };
    rows.iter().map(read).collect()
}

/// Returns how many changes of each log are counted.
fn counted(logs: usize) -> i64 {
    (MAX_COUNTED / logs.max(1)).max(MIN_COUNTED) as i64
}

/// Counts the contents of these logs of a user: of long logs only the newest changes, in total about [`MAX_COUNTED`].
pub async fn count(client: &Client, user: UserKey, logs: &mut [StoredLog]) -> Result<(), InspectError> {
    let (user, limit, counted) = (user.0.to_string(), MAX_LOGS as i64, counted(logs.len()));
    // Reading one more than is reported shows whether there are more.
    let read = counted + 1;
    let parameters: [(&(dyn ToSql + Sync), Type); 3] = [(&user, Type::TEXT), (&limit, Type::INT8), (&read, Type::INT8)];
    for row in client.query_typed(CONTENTS, &parameters).await? {
        let (log, changes) = (LogId(uuid(row.try_get(0)?)?), row.try_get(1)?);
        let (bytes, tables) = (row.try_get(2)?, row.try_get(3)?);
        let content = Content { changes: counted.min(changes), bytes, tables, more: changes > counted };
        logs.iter_mut().filter(|known| known.log == log).for_each(|known| known.content = content);
    }
    Ok(())
}

/// Returns the devices, by app, that pushed the newest changes of this many logs of a user; the most recent first.
pub async fn devices(client: &Client, user: UserKey, logs: usize) -> Result<Vec<StoredDevice>, InspectError> {
    let (user, limit, counted) = (user.0.to_string(), MAX_LOGS as i64, counted(logs));
    let most = MAX_DEVICES as i64;
    let parameters: [(&(dyn ToSql + Sync), Type); 4] =
        [(&user, Type::TEXT), (&limit, Type::INT8), (&counted, Type::INT8), (&most, Type::INT8)];
    let rows = client.query_typed(DEVICES, &parameters).await?;
    let read = |row: &Row| {
        Ok(StoredDevice {
            app: row.try_get(0)?,
            device: row.try_get(1)?,
            changes: row.try_get(2)?,
            pushed: row.try_get(3)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Returns a record's stored changes, and what the history keeps of trimmed ones, oldest first; if there are more than
/// [`MAX_CHANGES`], or very large ones, only the newest. Also returns whether there are older ones.
pub async fn record(
    client: &Client,
    log: &Log,
    table: &str,
    id: &str,
) -> Result<(Vec<LoggedChange>, bool), InspectError> {
    let (log, limit) = (log.id.0.to_string(), MAX_CHANGES as i64 + 1);
    let parameters: [(&(dyn ToSql + Sync), Type); 5] =
        [(&log, Type::TEXT), (&table, Type::TEXT), (&id, Type::TEXT), (&limit, Type::INT8), (&MAX_BYTES, Type::INT8)];
    let mut rows = client.query_typed(RECORD, &parameters).await?;
    let found: i64 = rows.first().map_or(Ok(0), |row| row.try_get(7))?;
    rows.truncate(MAX_CHANGES);
    let has_older = found > rows.len() as i64;
    let read = |row: &Row| {
        let op: &str = row.try_get(2)?;
        let change = StoredChange {
            id: uuid(row.try_get(0)?)?,
            at: row.try_get(1)?,
            table: table.to_owned(),
            record: id.to_owned(),
            op: Op::from_name(op).ok_or(InspectError::UnknownChange)?,
            data: row.try_get(3)?,
            stamps: row.try_get(4)?,
            extra: None,
            is_own: false,
            rows_trimmed: false,
        };
        Ok(LoggedChange { change, client: row.try_get(5)?, trimmed_at: row.try_get(6)? })
    };
    Ok((rows.iter().rev().map(read).collect::<Result<_, InspectError>>()?, has_older))
}

/// Returns the state of the database: combined over all servers, if the buckets are on Citus. Connections are always
/// those of the server that is queried.
pub async fn state(client: &Client, layout: Layout) -> Result<DatabaseState, InspectError> {
    let mut state = state_of_server(client).await?;
    if layout.is_on_citus() {
        client.batch_execute(SHORT_WAITS).await?;
        let rows = client.query_typed(STATE_OF_ALL, &[]).await?;
        let row = rows.first().ok_or(InspectError::UnknownChange)?;
        state.bytes = row.try_get(0)?;
        state.log_bytes = row.try_get(1)?;
        state.changes = row.try_get(2)?;
        state.logs = row.try_get(3)?;
        state.oldest_transaction_seconds = row.try_get(4)?;
        state.transaction_age = row.try_get(5)?;
    }
    Ok(state)
}

async fn state_of_server(client: &Client) -> Result<DatabaseState, InspectError> {
    let rows = client.query_typed(STATE, &[]).await?;
    let row = rows.first().ok_or(InspectError::UnknownChange)?;
    Ok(DatabaseState {
        version: row.try_get(0)?,
        bytes: row.try_get(1)?,
        log_bytes: row.try_get(2)?,
        changes: row.try_get(3)?,
        logs: row.try_get(4)?,
        connections: row.try_get(5)?,
        max_connections: row.try_get(6)?,
        oldest_transaction_seconds: row.try_get(7)?,
        transaction_age: row.try_get(8)?,
    })
}

fn uuid(text: &str) -> Result<Uuid, InspectError> {
    Uuid::parse_str(text).map_err(|_| InspectError::UnknownChange)
}
