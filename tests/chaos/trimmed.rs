//! Compares the log as it was stored with the log while it is trimmed: what is left of it, what the history has, and
//! what a reader must have seen.

use crate::support::TIMEOUT;
use crate::workload::{Kind, Reader};
use mana_load::fold::Row;
use mana_load::protocol::{Change, Op};
use serde_json::{Map, Value};
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{PgPool, Row as _};
use std::collections::{BTreeMap, BTreeSet};

/// A row as it was stored, and what is left of it in the log.
#[derive(Clone, Debug)]
pub struct LogRow {
    pub row: Row,
    /// The remaining fields; none if the row is gone.
    kept: Option<BTreeSet<String>>,
}

/// Reads the rows of one user and app in stored order, from a single snapshot.
pub async fn read_log(pool: &PgPool, user: &str, app: &str) -> Vec<LogRow> {
    let query = "
        select id, table_name, record_id, op, data, field_timestamps, client_id, created_at, true as is_kept
        from sync_changes where log_id = sync_log_id($1, $2)
        union all
        select id, table_name, record_id, op, data, field_timestamps, client_id, created_at, false
        from sync_history where log_id = sync_log_id($1, $2)";
    let parts = tokio::time::timeout(TIMEOUT, sqlx::query(query).bind(user).bind(app).fetch_all(pool)).await;
    let mut rows: BTreeMap<(DateTime<Utc>, uuid::Uuid), LogRow> = BTreeMap::new();
    for part in parts.unwrap().unwrap() {
        let (at, id): (DateTime<Utc>, uuid::Uuid) = (part.get("created_at"), part.get("id"));
        let op: String = part.get("op");
        let object = |column: &str| match part.get::<Option<Value>, _>(column) {
            Some(Value::Object(members)) => members,
            _ => Map::new(),
        };
        let (mut data, mut stamps) = (object("data"), object("field_timestamps"));
        match op.as_str() {
            // For the trimmed part of an insert, history has stamps as well.
            "insert" => stamps = Map::new(),
            "delete" => data = Map::new(),
            _ => {}
        }
        let fields: BTreeSet<String> = data.keys().chain(stamps.keys()).cloned().collect();
        let row = rows.entry((at, id)).or_insert_with(|| LogRow {
            row: Row {
                table_name: part.get("table_name"),
                record_id: part.get("record_id"),
                op: op.clone(),
                data: (op != "delete").then(|| Value::Object(Map::new())),
                field_timestamps: Value::Object(Map::new()),
                client_id: part.get("client_id"),
                created_at: at,
            },
            kept: None,
        });
        if let Some(Value::Object(whole)) = &mut row.row.data {
            whole.append(&mut data);
        }
        if let Value::Object(whole) = &mut row.row.field_timestamps {
            whole.append(&mut stamps);
        }
        if part.get::<bool, _>("is_kept") {
            row.kept = Some(fields);
        }
    }
    rows.into_values().collect()
}

/// The writes of a change: value and stamp as text, by field.
fn writes(change: &Change) -> BTreeMap<String, (Value, String)> {
    match &change.op {
        Op::Insert { data } => {
            data.iter().map(|(name, value)| (name.clone(), (value.clone(), String::new()))).collect()
        }
        Op::Update { fields } => {
            fields.iter().map(|(name, write)| (name.clone(), (write.value.clone(), write.updated_at.clone()))).collect()
        }
        Op::Delete { deleted_at } => {
            let stamp = deleted_at.clone().unwrap_or_default();
            [("deletedAt".to_owned(), (Value::String(stamp.clone()), stamp))].into()
        }
    }
}

/// The changes that a reader must have seen: each one in full, with its fields that are still in the log.
pub struct Expected {
    changes: Vec<(Change, Option<BTreeSet<String>>)>,
    kept: usize,
}

impl Expected {
    pub fn of(rows: &[LogRow], reader: &Reader) -> Expected {
        let has_read_so_far = |row: &LogRow| {
            reader.kind != Kind::Beginning || reader.until().is_some_and(|until| row.row.created_at <= until)
        };
        let read = rows.iter().filter(|row| reader.reads(&row.row.table_name) && has_read_so_far(row));
        let mut changes: Vec<_> = read.map(|row| (row.row.as_change().unwrap(), row.kept.clone())).collect();
        if reader.is_grouped() {
            changes.sort_by(|(a, _), (b, _)| a.table.cmp(&b.table));
        }
        let kept = changes.iter().filter(|(_, kept)| kept.is_some()).count();
        Expected { changes, kept }
    }

    /// Minimum number of changes.
    pub fn count(&self) -> usize {
        self.kept
    }

    /// True if a reader has everything that is in the log, and perhaps more that came since.
    pub fn is_met(&self, reader: &Reader) -> bool {
        if reader.count() < self.kept || reader.kind == Kind::Woken {
            return reader.count() >= self.kept;
        }
        let mut seen = reader.seen();
        if reader.is_grouped() {
            seen.sort_by(|a, b| a.table.cmp(&b.table));
        }
        let mut seen = seen.iter();
        let kept = self.changes.iter().filter_map(|(change, kept)| Some((change, kept.as_ref()?)));
        let mut all = kept.map(|(change, kept)| seen.any(|seen| is_part(seen, change, Some(kept))));
        all.all(|has| has)
    }

    /// Checks that a reader's list is this, in order, except for what was trimmed before it was read.
    pub fn explains(&self, reader: &Reader) -> Result<(), String> {
        if reader.kind == Kind::Woken {
            let fits = (self.kept..=self.changes.len()).contains(&reader.count());
            let counts = || format!("{} to {} stored, {} received", self.kept, self.changes.len(), reader.count());
            return if fits { Ok(()) } else { Err(counts()) };
        }
        match self.explains_as_far(reader)? {
            None => Ok(()),
            Some(change) => Err(format!("it was sent what is not stored there: {change:?}")),
        }
    }

    /// Returns the first change that the reader has beyond these.
    fn explains_as_far(&self, reader: &Reader) -> Result<Option<Change>, String> {
        let mut seen = reader.seen();
        if reader.is_grouped() {
            seen.sort_by(|a, b| a.table.cmp(&b.table));
        }
        let mut seen = seen.into_iter().peekable();
        for (change, kept) in &self.changes {
            if seen.next_if(|seen| is_part(seen, change, kept.as_ref())).is_none() && kept.is_some() {
                return Err(format!("it lacks {change:?}, and has {:?}", seen.peek()));
            }
        }
        Ok(seen.next())
    }
}

/// True if the change seen is this change, or what was left of it at some earlier time.
fn is_part(seen: &Change, whole: &Change, kept: Option<&BTreeSet<String>>) -> bool {
    if (&seen.table, &seen.id) != (&whole.table, &whole.id) {
        return false;
    }
    // On an initial sync, a delete may arrive as a write of deletedAt.
    let is_same_kind = std::mem::discriminant(&seen.op) == std::mem::discriminant(&whole.op)
        || matches!((&seen.op, &whole.op), (Op::Update { .. }, Op::Delete { .. }));
    let (seen, whole) = (writes(seen), writes(whole));
    is_same_kind
        && (!seen.is_empty() || whole.is_empty())
        && seen.iter().all(|(name, write)| whole.get(name) == Some(write))
        && kept.is_none_or(|kept| kept.iter().all(|name| seen.contains_key(name)))
}
