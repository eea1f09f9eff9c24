//! Database fitness checks: each problem for an operator to fix is described in one sentence, at the start and in the
//! readiness response.

use super::StoreError;
use super::layout::{Layout, LayoutState};
use super::schema::newest_known;
use super::visibility::all_rows_are_open;
use crate::db::{DbError, Pool, Sql};
use tokio_postgres::types::Type;

/// A problem that keeps the database from serving.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The encoding is not UTF-8.
    #[error("the database's encoding is {0} and must be UTF8: recreate it with encoding 'UTF8'")]
    Encoding(String),
    /// Fewer connections are allowed than the pool may open.
    #[error(
        "the database allows this role {allowed} connections, but this replica needs {needed}: raise its limit or lower DATABASE_POOL_SIZE"
    )]
    Connections {
        /// The number allowed.
        allowed: i32,
        /// The number needed.
        needed: i32,
    },
    /// The database is a standby, which cannot be written to.
    #[error("the database is a standby, which cannot be written to")]
    Standby,
    /// The database is read-only: default_transaction_read_only is on, for the server, the database or the role.
    #[error("the database is read-only: default_transaction_read_only is on, for the server, the database or the role")]
    ReadOnly,
    /// A right is missing.
    #[error("the role of DATABASE_URL lacks rights: {0} (deploy/grants.sql grants all that it needs)")]
    Rights(String),
    /// Row-level security keeps rows from the role.
    #[error(
        "row-level security restricts the role of DATABASE_URL: {0} (deploy/row_level_security.sql has policies that let it see and write all rows; or turn it off)"
    )]
    Restricted(String),
    /// Tables are neither found nor made anywhere.
    #[error(
        "search_path names no schema that exists and that the role may use: set it for the server, the database or the role"
    )]
    NoSchema,
    /// A right needed for trimming is missing. Everything else works without it.
    #[error(
        "the role of DATABASE_URL lacks rights to trim: {0} (deploy/grants.sql grants all that it needs; COMPACT_AFTER_MS=0 turns trimming off)"
    )]
    TrimmingRights(String),
    /// The schema, which is read through the direct URL, is not accessible.
    #[error(
        "the role of DATABASE_LISTEN_URL, or else of DATABASE_URL, lacks rights: {0} (deploy/grants.sql grants all that it needs)"
    )]
    SchemaRights(String),
    /// The two URLs lead to different databases.
    #[error("DATABASE_LISTEN_URL points to a different database than DATABASE_URL")]
    OtherDatabase,
    /// The schema was migrated to one that this version does not know.
    #[error(
        "the schema is for replicas that know migration {needed}, but this one knows only {known}: start a newer version"
    )]
    TooNew {
        /// The migration that replicas must know.
        needed: i64,
        /// The newest that this one knows.
        known: i64,
    },
    /// The tables were changed by something else than a migration.
    #[error("columns that this version needs are missing: {0}")]
    Columns(String),
    /// The logs were distributed after this replica started.
    #[error("the logs are distributed over {now}, but this replica looks for them in {known}: restart it")]
    Layout {
        /// The current layout.
        now: Layout,
        /// The layout that this replica knows.
        known: Layout,
    },
    /// The logs are being distributed.
    #[error("the logs are being distributed over buckets: let `mana-sync distribute` finish, then restart the replica")]
    Moving,
}

impl Unfit {
    /// Returns true if the problem can be fixed while a replica runs.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Unfit::Standby
                | Unfit::ReadOnly
                | Unfit::Rights(_)
                | Unfit::Restricted(_)
                | Unfit::TrimmingRights(_)
                | Unfit::SchemaRights(_)
                | Unfit::NoSchema
                | Unfit::Columns(_)
                | Unfit::OtherDatabase
        )
    }

    /// Returns true if the database can serve all the same: the problem then only keeps a replica from starting.
    pub fn is_of_background(&self) -> bool {
        matches!(self, Unfit::TrimmingRights(_))
    }

    /// Returns true if the replica does not know the schema, so that only another one can serve: it looks for logs where
    /// they no longer are, or is too old.
    pub fn is_final(&self) -> bool {
        matches!(self, Unfit::Layout { .. } | Unfit::Moving | Unfit::TooNew { .. })
    }
}

/// A default of the server, the database or the role with which it can serve, but not as promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// What was answered may be lost.
    #[error(
        "synchronous_commit is off, for the server, the database or the role: if PostgreSQL crashes, pushes that were answered may be lost"
    )]
    UnflushedCommits,
    /// Large pushes and pages may not fit.
    #[error(
        "temp_file_limit is below 256 MB, for the server, the database or the role: large pushes and pages may be refused with 503"
    )]
    LittleRoom,
    /// Statements may end before their own limit.
    #[error(
        "transaction_timeout is shorter than DATABASE_STATEMENT_TIMEOUT_MS, for the server, the database or the role: it ends connections in the middle of statements that may take longer"
    )]
    ShortTransactions,
}

/// The database's report on itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitness {
    /// Usage of its notification queue, from 0 to 1.
    pub notification_queue: f64,
    /// The reason that it cannot serve; `None` if it can.
    pub unfit: Option<Unfit>,
}

/// A replica's connections outside its pool: one to listen, one to publish.
const BESIDE_POOL: i32 = 2;

/// Where a replica's tables are: the schemas in `$1`, those of the buckets; if it is empty, where the search path leads,
/// or would.
macro_rules! places {
    () => {
        "place as (
            select n.oid, quote_ident(n.nspname) as schema, quote_ident(n.nspname) || '.' as prefix
            from pg_namespace n where n.nspname = any($1::name[])
            union all
            select n.oid, quote_ident(n.nspname), ''
            from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where cardinality($1) = 0 and c.oid = to_regclass('sync_heads')
            union all
            select n.oid, quote_ident(n.nspname), ''
            from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where cardinality($1) = 0 and to_regclass('sync_heads') is null and c.relname = 'sync_heads'
              and not has_schema_privilege(n.oid, 'USAGE')
              and n.nspname = any(select replace(btrim(path, ' \"'), '$user', session_user)::name
                                  from unnest(string_to_array(current_setting('search_path'), ',')) path)
        )"
    };
}

/// The tables, what a replica does with them, and how policies name that.
macro_rules! needed {
    () => {
        "(values ('sync_heads', 'SELECT', 'r'), ('sync_heads', 'INSERT', 'a'), ('sync_heads', 'UPDATE', 'w'),
                 ('sync_changes', 'SELECT', 'r'), ('sync_changes', 'INSERT', 'a'), ('sync_history', 'SELECT', 'r'),
                 ('sync_erased', 'SELECT', 'r'), ('sync_layout', 'SELECT', 'r'), ('sync_anchor', 'SELECT', 'r'))
             as needed (name, privilege, command)"
    };
}

/// The missing rights, or some of them. Reads only the catalogs, because the contents of a schema without USAGE cannot
/// be named. A problem in one bucket affects only its own users, so rights count as missing only if every bucket lacks
/// some.
macro_rules! missing_rights {
    () => {
        concat!(
            "(with ",
            places!(),
            ", missing as (
            select place.oid as place, 'USAGE on schema ' || schema as what from place where not has_schema_privilege(oid, 'USAGE')
            union all
            select place.oid, needed.privilege || ' on ' || prefix || needed.name
            from place cross join ",
            needed!(),
            "
            left join pg_class c on c.relnamespace = place.oid and c.relname = needed.name::name
            where not coalesce(has_table_privilege(c.oid, needed.privilege), needed.name in ('sync_layout', 'sync_anchor'))
        ), of_catalog as (
            select 'EXECUTE on function ' || name as what from (values ('pg_notify(text,text)'), ('pg_notification_queue_usage()')) as f (name)
            where not has_function_privilege('pg_catalog.' || name, 'EXECUTE')
            union all
            select 'SELECT on ' || name from (values ('pg_roles'), ('pg_database')) as v (name)
            where not has_table_privilege('pg_catalog.' || name, 'SELECT')
        )
        select string_agg(what, ', ') from (
            select what from of_catalog
            union all
            (select what from missing where (select count(distinct place) from missing) >= cardinality($1) limit 8)
        ) as first_ones)"
        )
    };
}

/// What row-level security does not let the role do with all rows, or some of it, in the same way.
macro_rules! restricted {
    () => {
        concat!(
            "(with ",
            places!(),
            ", restricted as (
            select place.oid as place, needed.privilege || ' on ' || prefix || needed.name as what
            from place cross join ",
            needed!(),
            " join pg_class c on c.relnamespace = place.oid and c.relname = needed.name::name and c.relkind in ('r', 'p')
            where not ",
            all_rows_are_open!("c.oid", "needed.command"),
            "
        )
        select string_agg(what, ', ') from (select what from restricted limit 8) as first_ones
        where (select count(distinct place) from restricted) >= cardinality($1))"
        )
    };
}

/// The columns with which this version stores, reads and trims. Those that others have added do not matter.
macro_rules! columns {
    () => {
        "(values ('sync_heads', '{log_id,user_key,user_id,app_id,head,previous,trimmed_to,trim_horizon,untrimmed_since,deleted_since,stored_changes,stored_bytes}'::name[]),
                 ('sync_changes', '{id,log_id,user_id,app_id,client_id,table_name,record_id,op,data,field_timestamps,held,extra,size,created_at,rows_trimmed}'),
                 ('sync_history', '{id,log_id,table_name,record_id,created_at,trimmed_at,client_id,op,data,field_timestamps,extra}'),
                 ('sync_erased', '{log_id,head,erased_at}'))
             as columns (of_table, names)"
    };
}

/// The columns that are missing, or some of them. As with rights, every bucket has to lack some.
static MISSING_COLUMNS: Sql = Sql {
    text: concat!(
        "with ",
        places!(),
        ", missing as (
            select place.oid as place, prefix || of_table || '.' || name as what
            from place cross join ",
        columns!(),
        " left join pg_class c on c.relnamespace = place.oid and c.relname = of_table::name
            cross join unnest(names) as name
            where not exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = name and not a.attisdropped)
            union all
            select 0::oid, 'all of sync_heads' where not exists (select from place)
        )
        select string_agg(what, ', ') from (select what from missing order by 1 limit 8) as first_ones
        where (select count(distinct place) from missing) >= greatest(cardinality($1), 1)"
    ),
    types: &[Type::TEXT_ARRAY],
};

/// The missing rights for trimming, in any of the schemas.
macro_rules! missing_trimming_rights {
    () => {
        "(select string_agg(what, ', ') from (
            select 'EXECUTE on ' || case when cardinality($1) = 0 then '' else quote_ident(n.nspname) || '.' end || p.proname as what
            from pg_namespace n join pg_proc p on p.pronamespace = n.oid
            where p.proname in ('sync_history_days', 'sync_trim_rows', 'sync_mark_trimmed') and not has_function_privilege(p.oid, 'EXECUTE')
              and case when cardinality($1) = 0 then n.oid = (select relnamespace from pg_class where oid = to_regclass('sync_heads'))
                       else n.nspname = any($1::name[]) end
            order by 1 limit 8
        ) as first_ones)"
    };
}

/// The rights alone: if some are missing, the other queries may fail too.
pub(super) static RIGHTS: Sql = Sql { text: concat!("select ", missing_rights!()), types: &[Type::TEXT_ARRAY] };

static FITNESS: Sql = Sql {
    text: concat!(
        "
select pg_notification_queue_usage(), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
       current_setting('server_encoding'), ",
        missing_rights!(),
        ",
       (select case when r.rolsuper then current_setting('max_connections')::int
                    else least(current_setting('max_connections')::int
                                   - current_setting('superuser_reserved_connections')::int
                                   - coalesce(current_setting('reserved_connections', true)::int, 0),
                               nullif(d.datconnlimit, -1), nullif(r.rolconnlimit, -1)) end
        from pg_roles r, pg_database d where r.rolname = session_user and d.datname = current_database()),
       (select buckets from sync_layout where one), (select is_moving from sync_layout where one),
       (select on_citus from sync_layout where one), case when $2 then ",
        missing_trimming_rights!(),
        " end, ",
        restricted!(),
        ",
       substring(obj_description(to_regclass('sync_heads'), 'pg_class') from 'replicas must know migration (\\d+)')::int8"
    ),
    types: &[Type::TEXT_ARRAY, Type::BOOL],
};

/// Servers have `transaction_timeout` from version 17.
static DOUBTS: Sql = Sql {
    text: "
select current_setting('synchronous_commit') = 'off',
       coalesce(nullif(current_setting('transaction_timeout', true), '0')::interval
                < current_setting('statement_timeout')::interval, false),
       pg_size_bytes(current_setting('temp_file_limit')) between 0 and 256 * 1024 * 1024 - 1",
    types: &[],
};

/// Returns the statements of this file, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![("fitness", &FITNESS), ("rights", &RIGHTS), ("missing columns", &MISSING_COLUMNS), ("doubts", &DOUBTS)]
}

/// Checks whether a database can serve.
#[derive(Clone, Debug)]
pub(super) struct FitnessCheck {
    pub(super) pool: Pool,
}

impl FitnessCheck {
    /// Checks whether the database can serve this replica, given the layout it knows, its number of connections, and
    /// whether it trims.
    ///
    /// # Errors
    /// The database does not respond.
    pub(super) async fn fitness(&self, known: Layout, connections: usize, trims: bool) -> Result<Fitness, StoreError> {
        let schemas = known.schemas();
        let rows = match self.pool.query(&FITNESS, &[&schemas, &trims]).await {
            Ok(rows) => rows,
            Err(error) if matches!(error.sqlstate(), Some("42P01" | "42501" | "3F000")) => {
                return self.missing_rights(&schemas, error).await;
            }
            Err(error) => return Err(error.into()),
        };
        let Some(row) = rows.first() else { return Ok(Fitness { notification_queue: 0.0, unfit: None }) };
        let (is_standby, is_read_only, encoding): (bool, bool, &str) =
            (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        let (rights, allowed): (Option<String>, Option<i32>) = (row.try_get(4)?, row.try_get(5)?);
        let needed = self.connections_needed(connections);
        let now = LayoutState::from_row(row.try_get(6)?, row.try_get(7)?, row.try_get(8)?);
        let newest: Option<i64> = row.try_get(11)?;
        let unfit = if now.is_moving {
            Some(Unfit::Moving)
        } else if now.layout != known {
            Some(Unfit::Layout { now: now.layout, known })
        } else if let Some(needed) = newest.filter(|needed| *needed > newest_known()) {
            Some(Unfit::TooNew { needed, known: newest_known() })
        } else if encoding != "UTF8" {
            Some(Unfit::Encoding(encoding.to_owned()))
        } else if let Some(allowed) = allowed.filter(|allowed| needed.is_some_and(|needed| *allowed < needed)) {
            Some(Unfit::Connections { allowed, needed: needed.unwrap_or(0) })
        } else if is_standby {
            Some(Unfit::Standby)
        } else if is_read_only {
            Some(Unfit::ReadOnly)
        } else {
            let (trimming, restricted): (Option<String>, Option<String>) = (row.try_get(9)?, row.try_get(10)?);
            rights.map(Unfit::Rights).or(restricted.map(Unfit::Restricted)).or(trimming.map(Unfit::TrimmingRights))
        };
        if matches!(unfit, Some(Unfit::Standby | Unfit::ReadOnly)) && self.pool.has_choice() {
            // Another one of its hosts is the primary now.
            self.pool.distrust();
        }
        Ok(Fitness { notification_queue: row.try_get(0)?, unfit })
    }

    /// Returns the defaults with which the database serves, but not as promised.
    ///
    /// # Errors
    /// The database does not respond.
    pub(super) async fn doubts(&self) -> Result<Vec<Doubt>, StoreError> {
        let rows = self.pool.query(&DOUBTS, &[]).await?;
        let Some(row) = rows.first() else { return Ok(Vec::new()) };
        let found = [
            (row.try_get(0)?, Doubt::UnflushedCommits),
            (row.try_get(1)?, Doubt::ShortTransactions),
            (row.try_get(2)?, Doubt::LittleRoom),
        ];
        Ok(found.into_iter().filter(|(applies, _)| *applies).map(|(_, doubt)| doubt).collect())
    }

    /// Returns the columns that the tables of a layout lack, or some of them; `None` if they have all.
    ///
    /// # Errors
    /// The database does not respond.
    pub(super) async fn missing_columns(&self, layout: Layout) -> Result<Option<String>, StoreError> {
        let rows = self.pool.query(&MISSING_COLUMNS, &[&layout.schemas()]).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?.flatten())
    }

    /// Returns the missing rights after a table could not be read; if none are missing, the error stands.
    async fn missing_rights(&self, schemas: &[String], error: DbError) -> Result<Fitness, StoreError> {
        let rows = self.pool.query(&RIGHTS, &[&schemas]).await?;
        match rows.first().map(|row| row.try_get(0)).transpose()?.flatten() {
            Some(rights) => Ok(Fitness { notification_queue: 0.0, unfit: Some(Unfit::Rights(rights)) }),
            None => Err(error.into()),
        }
    }

    /// Returns the number of connections a replica must be allowed; `None` if a pooler shares them.
    fn connections_needed(&self, own: usize) -> Option<i32> {
        self.pool.is_direct().then(|| i32::try_from(own).unwrap_or(i32::MAX).saturating_add(BESIDE_POOL))
    }
}
