//! The progress of a takeover, as kept in the database.
//!
//! `sync_takeover` exists from the renaming of the old table until the end. `sync_takeover_logs` lists the logs with
//! their names, `sync_takeover_parts` the parts in which they are copied; both are filled in one transaction.

use super::found::{self, Found};
use super::state::is_unfinished;
use super::{HIDDEN, TakenOver, TakeoverError, script};
use crate::db::Session;
use crate::protocol::Log;
use uuid::Uuid;

/// Maximum rows of a part, unless its last log is larger: less than a second's work, because a kill costs each copier
/// its current part. Parts of a small table are smaller, to show progress too.
const PART_ROWS: i64 = 20_000;
const PARTS: i64 = 20;
/// Number of logs recorded at once.
const LOGS_AT_ONCE: usize = 10_000;
/// Maximum bytes of a push's body.
const MAX_PUSH: usize = 10 << 20;

/// Moves the old table out of the way, in one transaction: row-level security is off, and its name and those of its
/// indexes and constraints are free. The oids distinguish names with the same beginning, and those of a table taken
/// over earlier. `sync_takeover` has a key because PostgreSQL refuses updates of published tables without one, and
/// there are publications of all tables.
const RENAME: &str = "
lock table sync_changes in access exclusive mode;
alter table sync_changes disable row level security, no force row level security;
do $$
declare
    named record;
begin
    for named in
        select oid, conname as name from pg_constraint where conrelid = 'sync_changes'::regclass and conname not like 'before\\_%'
    loop
        execute format('alter table sync_changes rename constraint %I to %I', named.name,
                       format('before_%s_%s', named.oid, left(named.name, 45)));
    end loop;
    for named in
        select c.oid, c.relname as name from pg_index i join pg_class c on c.oid = i.indexrelid
        where i.indrelid = 'sync_changes'::regclass and c.relname not like 'before\\_%'
    loop
        execute format('alter index %I rename to %I', named.name, format('before_%s_%s', named.oid, left(named.name, 45)));
    end loop;
end
$$;
alter table sync_changes rename to sync_changes_before;
create table sync_takeover (
    one         boolean primary key default true check (one),
    rows        int8 not null,
    secured     boolean not null,
    -- The dropped indexes of our table, as their definitions.
    indexes     text[],
    -- Rows that name no user or no app.
    nameless    int8
);
create table sync_takeover_logs (
    log_id uuid primary key, user_key uuid not null, user_id text not null, app_id text not null, part int not null
);
create table sync_takeover_parts (part int primary key, rows int8 not null, copied int8, left_behind int8);
";

/// Starts a takeover.
pub(super) async fn begin(connection: &Session, found: &Found) -> Result<(), TakeoverError> {
    let there = "select to_regclass('sync_changes_before') is not null, to_regclass('sync_heads') is not null";
    let there = connection.query_one(there, &[]).await?;
    if there.try_get(0)? {
        return Err(TakeoverError::OldTableIsThere);
    }
    if there.try_get(1)? {
        return Err(TakeoverError::OursAreThere);
    }
    let noted = format!("insert into sync_takeover (rows, secured) values ({}, {})", found.rows, found.secured);
    // Clients that are connected may have added rows since they were counted.
    let recount = "update sync_takeover set rows = (select count(*) from sync_changes_before)";
    Ok(script(connection, format!("begin; {RENAME}; {noted}; {recount}; commit")).await?)
}

/// Returns the old table of a takeover in progress, as it was found.
pub(super) async fn began(connection: &Session) -> Result<Option<Found>, TakeoverError> {
    if !is_unfinished(connection).await? {
        return Ok(None);
    }
    let row = connection.query_one("select rows from sync_takeover", &[]).await?;
    let found = found::look_at(connection, "sync_changes_before").await?;
    let mut found = found.ok_or_else(|| TakeoverError::UnknownForm("sync_changes_before is missing".to_owned()))?;
    found.rows = row.try_get(0)?;
    Ok(Some(found))
}

/// Records the logs and divides them into parts, unless done before.
pub(super) async fn make(connection: &Session) -> Result<(), TakeoverError> {
    let made = connection.query_one("select nameless is not null from sync_takeover", &[]).await?;
    let made: bool = made.try_get(0)?;
    if made {
        return Ok(());
    }
    index_by_log(connection).await?;
    script(connection, "begin; analyze sync_changes_before".to_owned()).await?;
    let groups = "select user_id::text, app_id::text, count(*) from sync_changes_before
                  where user_id <> '' and app_id <> '' group by 1, 2 order by 1, 2";
    let mut sizes: Vec<(String, String, i64)> = Vec::new();
    for row in connection.query(groups, &[]).await? {
        sizes.push((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    }
    let part_rows = (sizes.iter().map(|(.., rows)| rows).sum::<i64>() / PARTS).min(PART_ROWS);
    let (mut part, mut in_part, mut named) = (0, 0, 0);
    for sizes in sizes.chunks(LOGS_AT_ONCE) {
        let mut logs = Vec::with_capacity(sizes.len());
        for (user, app, rows) in sizes {
            logs.push(PlannedLog { log: Log::new(user.as_str().into(), app), part, rows: *rows });
            named += rows;
            in_part += rows;
            if in_part >= part_rows {
                (part, in_part) = (part + 1, 0);
            }
        }
        note_logs(connection, &logs).await?;
    }
    connection.execute("update sync_takeover set nameless = rows - $1", &[&named]).await?;
    script(connection, "commit; analyze sync_takeover_logs".to_owned()).await?;
    Ok(())
}

/// A log, the part in which it is copied, and its number of rows.
struct PlannedLog {
    log: Log,
    part: i32,
    rows: i64,
}

/// Records logs and their parts.
async fn note_logs(connection: &Session, logs: &[PlannedLog]) -> Result<(), tokio_postgres::Error> {
    let insert = "
        with logs as (
            select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::int[], $6::int8[])
                          as u (log_id, user_key, user_id, app_id, part, rows)
        ), named as (
            insert into sync_takeover_logs select log_id, user_key, user_id, app_id, part from logs
        )
        insert into sync_takeover_parts as p (part, rows) select part, sum(rows) from logs group by part
        on conflict (part) do update set rows = p.rows + excluded.rows";
    let names = |name: fn(&Log) -> Uuid| logs.iter().map(|planned| name(&planned.log)).collect::<Vec<_>>();
    let users: Vec<&str> = logs.iter().map(|planned| &*planned.log.user_id).collect();
    let apps: Vec<&str> = logs.iter().map(|planned| &*planned.log.app).collect();
    let parts: Vec<i32> = logs.iter().map(|planned| planned.part).collect();
    let rows: Vec<i64> = logs.iter().map(|planned| planned.rows).collect();
    let (ids, keys) = (names(|log| log.id.0), names(|log| log.user.0));
    connection.execute(insert, &[&ids, &keys, &users, &apps, &parts, &rows]).await.map(|_| ())
}

/// Creates an index for finding a part's rows, unless there is one.
async fn index_by_log(connection: &Session) -> Result<(), tokio_postgres::Error> {
    let there = "
        select exists (
            select from pg_index i
            join pg_attribute u on u.attrelid = i.indrelid and u.attnum = i.indkey[0] and u.attname = 'user_id'
            join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[1] and a.attname = 'app_id'
            where i.indrelid = 'sync_changes_before'::regclass and i.indisvalid and i.indpred is null)";
    if !connection.query_one(there, &[]).await?.try_get::<_, bool>(0)? {
        let create = "create index if not exists before_by_log on sync_changes_before (user_id, app_id, created_at)";
        script(connection, create.to_owned()).await?;
    }
    Ok(())
}

/// Returns the number of rows that are done, and the parts that are not.
pub(super) async fn parts_left(connection: &Session) -> Result<(i64, Vec<i32>), TakeoverError> {
    let done = "select (coalesce(sum(copied + left_behind), 0) + (select nameless from sync_takeover))::int8 from sync_takeover_parts";
    let done: i64 = connection.query_one(done, &[]).await?.try_get(0)?;
    let left = "select part from sync_takeover_parts where copied is null order by part";
    let left = connection.query(left, &[]).await?;
    Ok((done, left.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?))
}

/// Checks the counts, grants everybody who could read and write the old table the same rights, including its owner, and
/// lets replicas start.
pub(super) async fn finish(connection: &Session) -> Result<TakenOver, TakeoverError> {
    script(connection, format!("analyze {HIDDEN}; analyze sync_heads")).await?;
    let sums = "select t.rows, t.nameless + coalesce(sum(p.left_behind), 0)::int8, coalesce(sum(p.copied), 0)::int8
                from sync_takeover t left join sync_takeover_parts p on true group by t.rows, t.nameless";
    let sums = connection.query_one(sums, &[]).await?;
    let (expected, left_behind, found): (i64, i64, i64) = (sums.try_get(0)?, sums.try_get(1)?, sums.try_get(2)?);
    let count = format!("select count(*), count(*) filter (where size > {MAX_PUSH}) from {HIDDEN}");
    let count = connection.query_one(&count, &[]).await?;
    let (stored, large): (i64, i64) = (count.try_get(0)?, count.try_get(1)?);
    if found + left_behind != expected || stored < found {
        return Err(TakeoverError::Miscounted { expected, found: found.min(stored), left_behind });
    }
    script(
        connection,
        format!(
            "begin; alter table {HIDDEN} enable trigger user; alter table {HIDDEN} rename to sync_changes; {GRANT};
             drop table sync_takeover, sync_takeover_logs, sync_takeover_parts; commit"
        ),
    )
    .await?;
    Ok(TakenOver { rows: found, left_behind, large })
}

const GRANT: &str = "
do $$
declare
    g record;
begin
    for g in
        select a.what, a.columns, case a.grantee when 0 then 'public' else a.grantee::regrole::text end as who
        from (
            select x.privilege_type as what, '' as columns, x.grantee
            from pg_class c, aclexplode(c.relacl) x
            where c.oid = 'sync_changes_before'::regclass and x.grantee <> c.relowner
            union all
            -- Ours belongs to whoever runs the command.
            select w.what, '', c.relowner
            from pg_class c, unnest(array['SELECT', 'INSERT', 'DELETE']) as w (what)
            where c.oid = 'sync_changes_before'::regclass
              and c.relowner <> (select o.relowner from pg_class o where o.oid = 'sync_changes'::regclass)
            union all
            select x.privilege_type, format('(%I)', t.attname), x.grantee
            from pg_attribute t, aclexplode(t.attacl) x
            where t.attrelid = 'sync_changes_before'::regclass and not t.attisdropped
        ) a
        where a.what in ('SELECT', 'INSERT', 'DELETE')
    loop
        execute format('grant %s %s on sync_changes to %s', g.what, g.columns, g.who);
    end loop;
end
$$";
