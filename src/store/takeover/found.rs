//! Examines what there is to take over, to report it before anything is done.

use super::TakeoverError;
use crate::db::Session;
use std::fmt;

/// The previous server's table.
#[derive(Clone, Debug)]
pub(super) struct Found {
    columns: Vec<String>,
    /// True if row-level security is on.
    pub(super) secured: bool,
    policies: Vec<String>,
    /// Other database objects that refer to the table.
    dependents: Vec<String>,
    bytes: i64,
    pub(super) rows: i64,
}

/// A column's name, its possible types, and whether it is required.
const COLUMNS: [(&str, &[&str], bool); 16] = [
    ("id", &["uuid"], true),
    ("app_id", TEXT, true),
    ("table_name", TEXT, true),
    ("record_id", TEXT, true),
    ("user_id", TEXT, true),
    ("op", TEXT, true),
    ("data", &["jsonb"], true),
    ("client_id", TEXT, true),
    ("created_at", &["timestamp with time zone"], true),
    // One of these two is required.
    ("field_timestamps", &["jsonb"], false),
    ("field_meta", &["jsonb"], false),
    ("schema_version", &["integer", "smallint", "bigint"], false),
    ("actor", &["jsonb"], false),
    ("origin", TEXT, false),
    ("space_id", TEXT, false),
    // Only in our table: its presence means that there is nothing to take over.
    ("log_id", &["uuid"], false),
];
const TEXT: &[&str] = &["text", "character varying"];

const DESCRIBE: &str = "
select c.relkind::text as kind, c.relrowsecurity as secured,
       (select nspname from pg_namespace n where n.oid = c.relnamespace) = current_schema() as here,
       pg_total_relation_size(c.oid) as bytes, greatest(c.reltuples, 0)::int8 as rows,
       array(select attname::text || ' ' || regexp_replace(format_type(atttypid, null), '^pg_catalog\\.', '')
             from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped order by attnum) as columns,
       array(select polname::text from pg_policy where polrelid = c.oid) as policies,
       array(select 'the trigger ' || tgname from pg_trigger where tgrelid = c.oid and not tgisinternal
             union all select 'the foreign key ' || conname || ' of ' || conrelid::regclass from pg_constraint where confrelid = c.oid
             union all select distinct 'the view ' || r.ev_class::regclass from pg_depend d join pg_rewrite r on r.oid = d.objid
                       where d.refobjid = c.oid and d.classid = 'pg_rewrite'::regclass and r.ev_class <> c.oid
             union all select 'the publication ' || p.pubname from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
                       where r.prrelid = c.oid) as dependents
from pg_class c where c.oid = to_regclass($1)";

/// Returns the table to take over, if there is one.
pub(super) async fn look(connection: &Session) -> Result<Option<Found>, TakeoverError> {
    look_at(connection, "sync_changes").await
}

/// The same for a table with this name.
pub(super) async fn look_at(connection: &Session, name: &str) -> Result<Option<Found>, TakeoverError> {
    let Some(row) = connection.query_opt(DESCRIBE, &[&name]).await? else { return Ok(None) };
    let columns: Vec<String> = row.try_get("columns")?;
    if columns.iter().any(|column| column == "log_id uuid") {
        return Ok(None);
    }
    let columns = known_columns(columns)?;
    let kind: String = row.try_get("kind")?;
    if kind != "r" {
        return Err(TakeoverError::UnknownForm("it is not an ordinary table".to_owned()));
    }
    if !row.try_get::<_, bool>("here")? {
        return Err(TakeoverError::UnknownForm("it is not in the first schema of search_path".to_owned()));
    }
    Ok(Some(Found {
        columns,
        secured: row.try_get("secured")?,
        policies: row.try_get("policies")?,
        dependents: row.try_get("dependents")?,
        bytes: row.try_get("bytes")?,
        rows: row.try_get("rows")?,
    }))
}

/// Returns the names of columns that are given with their types; fails if one is unknown or missing.
fn known_columns(columns: Vec<String>) -> Result<Vec<String>, TakeoverError> {
    let mut names = Vec::new();
    for column in columns {
        let (name, kind) = column.split_once(' ').unwrap_or((&column, ""));
        match COLUMNS.iter().find(|(known, ..)| *known == name) {
            Some((_, kinds, _)) if kinds.contains(&kind) => names.push(name.to_owned()),
            Some((_, kinds, _)) => {
                let said = format!("the column {name} is of type {kind}, not {}", kinds.join(" or "));
                return Err(TakeoverError::UnknownForm(said));
            }
            None => return Err(TakeoverError::UnknownForm(format!("it has the unknown column {name}"))),
        }
    }
    let has = |name: &str| names.iter().any(|known| known == name);
    if let Some((missing, ..)) = COLUMNS.iter().find(|(name, _, must)| *must && !has(name)) {
        return Err(TakeoverError::UnknownForm(format!("it lacks the column {missing}")));
    }
    if !has("field_timestamps") && !has("field_meta") {
        return Err(TakeoverError::UnknownForm("it has neither field_timestamps nor field_meta".to_owned()));
    }
    Ok(names)
}

/// A conservative estimate of the rows taken over per second.
const ROWS_A_SECOND: i64 = 50_000;

impl Found {
    fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column == name)
    }

    /// Returns the select list with which [`super::copy`] reads its rows.
    pub(super) fn select_list(&self) -> String {
        let or_null = |name: &str, kind: &str| {
            if self.has(name) { format!("b.{name}::{kind}") } else { format!("null::{kind}") }
        };
        let stamps = match (self.has("field_meta"), self.has("field_timestamps")) {
            (true, false) => "b.field_meta::text",
            (false, _) => "b.field_timestamps::text",
            (true, true) => "coalesce(nullif(b.field_meta, '{}'), b.field_timestamps)::text",
        };
        format!(
            "b.id, b.table_name::text, b.record_id::text, b.op::text, b.data::text, {stamps}, b.client_id::text, \
             case when b.created_at between '0001-01-01' and '9999-12-31' then b.created_at end, \
             {}, {}, {}, {}",
            or_null("schema_version", "int"),
            or_null("actor", "text"),
            or_null("origin", "text"),
            or_null("space_id", "text"),
        )
    }

    /// Counts the rows, whatever the role. Row-level security could hide some of them even from the table's owner, so it is
    /// off during the count.
    pub(super) async fn count(&self, connection: &Session) -> Result<i64, TakeoverError> {
        let off = if self.secured { "; alter table sync_changes disable row level security" } else { "" };
        connection.batch_execute(&format!("begin{off}")).await?;
        let rows = connection.query_one("select count(*) from sync_changes", &[]).await?.try_get(0)?;
        connection.batch_execute("rollback").await?;
        Ok(rows)
    }
}

/// Describes what will be done.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = if self.has("field_meta") { "newest" } else { "older" };
        writeln!(
            f,
            "The database holds the sync_changes of the previous server, in its {form} form: about {} rows,",
            self.rows
        )?;
        writeln!(
            f,
            "{} MiB. It will be taken over: its rows are copied into a table of ours, in which each",
            self.bytes >> 20
        )?;
        writeln!(f, "keeps its place in its log, and the old table is kept as sync_changes_before.")?;
        let seconds = self.rows / ROWS_A_SECOND + 1;
        writeln!(
            f,
            "That may take {seconds} s and {} MiB. It can be stopped at any time and run again.",
            self.bytes >> 20
        )?;
        if self.secured || !self.policies.is_empty() {
            writeln!(
                f,
                "Row-level security is turned off: the replicas keep users apart themselves. Its policies stay"
            )?;
            writeln!(f, "with the old table: {}.", self.policies.join(", "))?;
            writeln!(f, "Roles that they restricted can then read and write the rows of all users.")?;
        }
        if !self.dependents.is_empty() {
            writeln!(f, "These will still refer to the old table: {}.", self.dependents.join(", "))?;
        }
        write!(f, "Roles that could insert, select or delete can do so in the new table.")
    }
}

/// Lists other clients connected to this database, by application_name; `ours` is not counted.
pub(super) async fn others(connection: &Session, ours: &str) -> Result<Vec<String>, TakeoverError> {
    // Without the right to see more of them, other users' connections have no backend_type.
    let who = "
        select coalesce(nullif(application_name, ''), 'an unnamed program') || ' as ' || coalesce(usename::text, '?')
               || coalesce(' from ' || host(client_addr), '') || case when count(*) > 1 then ' (' || count(*) || ' connections)' else '' end
        from pg_stat_activity
        where datid = (select oid from pg_database where datname = current_database()) and usesysid is not null
          and coalesce(backend_type, 'client backend') = 'client backend' and application_name <> $1
        group by application_name, usename, client_addr order by 1";
    let rows = connection.query(who, &[&ours]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(columns: &[&str]) -> String {
        known_columns(columns.iter().map(|column| (*column).to_owned()).collect()).unwrap_err().to_string()
    }

    #[test]
    fn only_the_two_known_forms_are_taken_over() {
        let mut columns =
            vec!["id uuid", "app_id text", "table_name text", "record_id text", "user_id text", "op text"];
        columns.extend(["data jsonb", "client_id text", "created_at timestamp with time zone"]);
        assert!(refused(&columns).contains("neither field_timestamps nor field_meta"));
        for form in
            [&["field_timestamps jsonb"][..], &["field_meta jsonb", "actor jsonb", "space_id character varying"]]
        {
            let whole: Vec<String> = columns.iter().chain(form).map(|column| (*column).to_owned()).collect();
            assert_eq!(known_columns(whole).unwrap().len(), columns.len() + form.len());
        }
        columns.push("field_timestamps jsonb");
        let more: Vec<&str> = columns.iter().copied().chain(["version integer"]).collect();
        assert!(refused(&more).contains("unknown column version"));
        assert!(refused(&columns[1..]).contains("lacks the column id"));
        columns[0] = "id integer";
        assert!(refused(&columns).contains("id is of type integer, not uuid"));
    }
}
