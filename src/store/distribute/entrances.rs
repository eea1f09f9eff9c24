//! What SQL programs find in the main schema of a distributed database: views over all buckets under the names of the
//! tables, and functions that store and erase in the right bucket.
//!
//! The tables themselves stay, empty, under other names: migrations get them back for as long as they run.

use crate::db::Session;
use crate::store::layout::{Layout, LayoutState};
use crate::store::migrator::{self, MigrateError};
use tokio_postgres::Client;

type Error = tokio_postgres::Error;

/// The advisory lock that admits one session at a time; an arbitrary number that nothing else uses.
pub(super) const LOCK: i64 = 0x6d61_6e61_6275_636b;

/// The tables that every bucket has.
pub(super) const TABLES: [&str; 4] = ["sync_heads", "sync_changes", "sync_history", "sync_erased"];

/// Returns the name of a main-schema table while a view has its own name.
pub(super) fn undistributed(table: &str) -> String {
    format!("{table}_undistributed")
}

/// Returns the name of a view while its table has the name back.
fn set_aside(table: &str) -> String {
    format!("{table}_of_buckets")
}

/// Storing, erasing and deleting, routed to the user's bucket. They run with the owner's rights, like the functions
/// they replace.
const FUNCTIONS: &str = include_str!("entrances.sql");
/// Row-level security between users, for programs that use SQL; optional for operators.
const WALL: &str = include_str!("../../../deploy/row_level_security.sql");
/// On Citus, part of the views. Citus refuses most statements of replicas that do not know the buckets, because of how they
/// plan them, with an error for which these answer 500. With this one, raised before Citus plans, they answer 503 until they
/// are stopped. Declared immutable, so that it is called when a statement is planned; within a session it is.
const REFUSAL: &str = "
    create or replace function sync_refuse_replicas() returns boolean language plpgsql immutable parallel safe as $$
    begin
        if current_setting('application_name') like 'mana-sync %' then
            raise exception using errcode = 'object_not_in_prerequisite_state',
                message = 'the logs are distributed over buckets, and this replica looks for them elsewhere: restart it';
        end if;
        return true;
    end
    $$";
/// The functions that differ if the buckets are on Citus.
const FUNCTIONS_ON_CITUS: &str = include_str!("citus_entrances.sql");

/// Creates the entrances, or brings them up to date, in one transaction.
pub(super) async fn make(connection: &Client, state: LayoutState) -> Result<(), Error> {
    in_transaction(connection, make_all(connection, state)).await
}

/// Applies missing migrations to the main schema, whose tables have their names back meanwhile, and recreates the
/// entrances: all in one transaction, so programs wait and never see the empty tables. If it is killed, nothing has
/// changed.
pub(in crate::store) async fn migrate(connection: &Session, state: LayoutState) -> Result<(), MigrateError> {
    connection.execute("select pg_advisory_lock($1)", &[&LOCK]).await?;
    let (before, after) = (Box::pin(give_names_back(connection)), Box::pin(make_all(connection, state)));
    let migrated = migrator::run_between(connection, before, after).await;
    let unlocked = connection.execute("select pg_advisory_unlock($1)", &[&LOCK]).await;
    migrated?;
    unlocked?;
    Ok(())
}

/// Recreates the entrances, and records that all logs have been moved.
pub(super) async fn finish(connection: &Client, layout: Layout) -> Result<(), Error> {
    let finishing = async {
        let finish = "update sync_layout set is_moving = false, on_citus = $1";
        connection.execute(finish, &[&layout.is_on_citus()]).await?;
        make_all(connection, LayoutState { layout, is_moving: false }).await
    };
    in_transaction(connection, finishing).await
}

/// Returns true if the tables have their names back: a migration by an earlier version, which did not use one
/// transaction, was killed or is still running.
pub(in crate::store) async fn are_set_aside(connection: &Client) -> Result<bool, Error> {
    Ok(kind(connection, &set_aside(TABLES[0])).await?.is_some())
}

/// Gives the tables of the main schema their names back, for migrations. Nobody can store anything in them.
async fn give_names_back(connection: &Client) -> Result<(), Error> {
    for table in TABLES {
        let (own, view) = (undistributed(table), set_aside(table));
        if kind(connection, &own).await?.is_some() && kind(connection, table).await? == Some(b'v' as i8) {
            rename(connection, "view", table, &view).await?;
            rename(connection, "table", &own, table).await?;
        }
    }
    Ok(())
}

async fn in_transaction(connection: &Client, work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    connection.batch_execute("begin").await?;
    let done = work.await;
    let ended = connection.batch_execute(if done.is_ok() { "commit" } else { "rollback" }).await;
    done?;
    ended
}

async fn make_all(connection: &Client, state: LayoutState) -> Result<(), Error> {
    if state.layout.is_on_citus() {
        connection.batch_execute(REFUSAL).await?;
    }
    for table in TABLES {
        make_view(connection, table, state).await?;
    }
    connection.batch_execute(FUNCTIONS).await?;
    if state.layout.is_on_citus() {
        connection.batch_execute(FUNCTIONS_ON_CITUS).await?;
    }
    if is_walled(connection, state).await? {
        connection.batch_execute(WALL).await?;
    }
    Ok(())
}

/// Returns true if row-level security is on: for the tables of the buckets, or still for those being moved.
async fn is_walled(connection: &Client, state: LayoutState) -> Result<bool, Error> {
    let mut places: Vec<String> =
        state.layout.schemas().into_iter().map(|schema| format!("{schema}.sync_changes")).collect();
    if state.is_moving {
        places.push(undistributed("sync_changes"));
    }
    let walled = "
        select exists (select from pg_class where relrowsecurity
                       and oid in (select to_regclass(name) from unnest($1::text[]) as t (name)))";
    connection.query_one(walled, &[&places]).await?.try_get(0)
}

async fn make_view(connection: &Client, table: &str, state: LayoutState) -> Result<(), Error> {
    let (own, view) = (undistributed(table), set_aside(table));
    let is_set_aside = kind(connection, &view).await?.is_some();
    let is_new = !is_set_aside && kind(connection, table).await? != Some(b'v' as i8);
    if kind(connection, table).await?.is_some_and(|kind| kind != b'v' as i8) {
        rename(connection, "table", table, &own).await?;
        if is_set_aside {
            rename(connection, "view", &view, table).await?;
        }
    }
    let columns = columns(connection, &own).await?;
    let mut parts = if state.is_moving { vec![own.clone()] } else { vec![] };
    parts.extend(state.layout.schemas().into_iter().map(|schema| format!("{schema}.{table}")));
    let parts: Vec<String> = parts.into_iter().map(|part| format!("select {columns} from {part}")).collect();
    let mut all = parts.join(" union all ");
    if state.layout.is_on_citus() {
        all = format!("select {columns} from ({all}) as of_all where sync_refuse_replicas()");
    }
    connection.batch_execute(&format!("create or replace view {table} as {all}")).await?;
    // Later, the view has its own rights: what operators have revoked there must not come back.
    if is_new { copy_grants(connection, &own, table).await } else { Ok(()) }
}

/// Returns the kind of the relation with this name; `None` if there is none.
async fn kind(connection: &Client, name: &str) -> Result<Option<i8>, Error> {
    let kind = "select relkind from pg_class where oid = to_regclass($1)";
    connection.query_opt(kind, &[&name]).await?.map(|row| row.try_get(0)).transpose()
}

async fn rename(connection: &Client, what: &str, from: &str, to: &str) -> Result<(), Error> {
    connection.batch_execute(&format!("alter {what} {from} rename to {to}")).await
}

/// Returns the columns of a table, in order, as SQL.
pub(super) async fn columns(connection: &Client, table: &str) -> Result<String, Error> {
    let columns = "
        select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
        where attrelid = to_regclass($1) and attnum > 0 and not attisdropped";
    connection.query_one(columns, &[&table]).await?.try_get(0)
}

/// Grants on a view whatever is granted on its table.
async fn copy_grants(connection: &Client, table: &str, view: &str) -> Result<(), Error> {
    let grants = "
        select format('grant %s %s on %s to %s', a.privilege_type, a.columns, $2::text,
                      case a.grantee when 0 then 'public' else a.grantee::regrole::text end)
        from (
            select x.privilege_type, '' as columns, x.grantee
            from pg_class c, aclexplode(c.relacl) x where c.oid = to_regclass($1) and x.grantee <> c.relowner
            union all
            select x.privilege_type, format('(%I)', t.attname), x.grantee
            from pg_attribute t, aclexplode(t.attacl) x where t.attrelid = to_regclass($1) and not t.attisdropped
        ) a";
    for row in connection.query(grants, &[&table, &view]).await? {
        connection.batch_execute(row.try_get(0)?).await?;
    }
    Ok(())
}
