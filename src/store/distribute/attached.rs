//! Objects that others have attached to the tables, and that would silently stay there: the tables will be empty.

use super::entrances::TABLES;
use tokio_postgres::Client;

type Error = tokio_postgres::Error;

/// One row per object, with its kind and name. Partitions of the history count as the history. Our own objects are left
/// out: the triggers of migrations, which are named after their table and call our functions, and the policies of
/// row_level_security.sql, which are re-created.
const ATTACHED: &str = r"
with named as (
    select to_regclass(name)::oid as oid from unnest($1::text[]) as t (name)
), ours as (
    select oid from named union select i.inhrelid from pg_inherits i join named on named.oid = i.inhparent
), tables as (
    select c.oid, c.relname, c.relnamespace, c.oid::regclass::text as called from pg_class c join ours using (oid)
)
select 'view ' || r.ev_class::regclass::text
from pg_depend d join pg_rewrite r on r.oid = d.objid
where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid in (select oid from ours)
  and r.ev_class not in (select oid from ours)
union
select format('rule %s on %s', r.rulename, t.called) from pg_rewrite r join tables t on t.oid = r.ev_class
union
select 'function ' || d.objid::regprocedure::text
from pg_depend d
where d.classid = 'pg_proc'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid in (select oid from ours)
union
select format('trigger %s on %s', g.tgname, t.called)
from pg_trigger g join tables t on t.oid = g.tgrelid join pg_proc f on f.oid = g.tgfoid
where not g.tgisinternal
  and not (g.tgname like t.relname || '\_%' and f.proname like 'sync\_%' and f.pronamespace = t.relnamespace)
union
select format('publication %s of %s', p.pubname, t.called)
from pg_publication_tables p join tables t on t.oid = to_regclass(format('%I.%I', p.schemaname, p.tablename))
union
select format('policy %s on %s', p.polname, t.called)
from pg_policy p join tables t on t.oid = p.polrelid where p.polname not in ('sync_own', 'sync_replica')
union
select format('foreign key %s of %s', k.conname, k.conrelid::regclass)
from pg_constraint k where k.contype = 'f' and (k.conrelid in (select oid from ours) or k.confrelid in (select oid from ours))
order by 1";

/// The state of row-level security on the tables: whether it is on at all, whether it is exactly that of
/// row_level_security.sql, and whether PostgreSQL supports that with buckets.
const SECURED: &str = "
with tables as (select c.* from pg_class c where c.oid in (select to_regclass(name) from unnest($1::text[]) as t (name)))
select coalesce(bool_or(relrowsecurity or relforcerowsecurity), false),
       not coalesce(bool_or(relforcerowsecurity), false)
           and exists (select from tables t join pg_policy p on p.polrelid = t.oid
                       where t.relrowsecurity and t.relname = 'sync_changes' and p.polname = 'sync_own'),
       current_setting('server_version_num')::int >= 150000
from tables";

/// Lists the objects attached to the tables; `None` if there are none.
pub(super) async fn to_tables(connection: &Client) -> Result<Option<String>, Error> {
    let rows = connection.query(ATTACHED, &[&&TABLES[..]]).await?;
    let names: Vec<&str> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok((!names.is_empty()).then(|| names.join(", ")))
}

/// Row-level security on tables.
#[derive(Clone, Copy, Debug)]
pub(super) enum Security {
    /// Off.
    Off,
    /// That of row_level_security.sql, which is also possible with buckets.
    Carried,
    /// That of row_level_security.sql, where it is not possible with buckets.
    Unsupported,
    /// Any other.
    Foreign,
}

/// Returns the state of row-level security on the tables of these schemas, or of the main schema if none are named.
pub(super) async fn security(connection: &Client, schemas: &[String]) -> Result<Security, Error> {
    let of = |schema: &String| TABLES.map(|table| format!("{schema}.{table}"));
    let tables: Vec<String> =
        if schemas.is_empty() { TABLES.map(str::to_owned).to_vec() } else { schemas.iter().flat_map(of).collect() };
    let row = connection.query_one(SECURED, &[&tables]).await?;
    Ok(match (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?) {
        (false, ..) => Security::Off,
        (true, false, _) => Security::Foreign,
        (true, true, false) => Security::Unsupported,
        (true, true, true) => Security::Carried,
    })
}
