//! Recognizing changes of a push that are stored already, and storing the rest (G1).
//!
//! Clients do not repeat a push unchanged: they send whatever was not acknowledged, together with newer changes.
//! Therefore each change is recognized individually, in whichever push it arrives, and the response is as if all were
//! new.

use super::batch::{BatchInsert, Entry, Placed, is_locked, is_unstamped_delete};
use super::position::Stored;
use super::{PAST_ALL, StoreError, citus, traced};
use crate::db::{DbError, Micros, Sql};
use crate::limits::heavy::HeavyWork;
use crate::protocol::identity::DeviceScope;
use crate::protocol::push::{Adjusted, Op, Push};
use crate::protocol::{Cursor, Log, LogId, Stamp, adjusted_stamp};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

/// Maximum number of attempts if others are storing the same changes at the same time.
const ATTEMPTS: usize = 5;

/// Bytes of a push before which its log's head is looked at: sending so much takes longer.
const LOOKS_AT_HEAD: usize = 256 << 10;

/// True if another session holds the head of a log, or did a moment ago.
static HEAD_IS_LOCKED: Sql = Sql {
    text: "
select exists (select from sync_heads where log_id = $1)
   and not exists (select from (select from sync_heads where log_id = $1 for update skip locked) h)",
    types: &[Type::UUID],
};

/// The rows that are stored, and for those with adjusted stamps, which stamps and to what. An insert has one for all of
/// its members.
static KNOWN: Sql = Sql {
    text: "
select id, created_at, op, case when op = 'insert' then '' else held::text end as held,
       case when held is not null then
           case op when 'insert' then jsonb_build_object('updatedAt', data -> 'updatedAt', 'createdAt', data -> 'createdAt')
                   else field_timestamps end
       end::text as stamps
from sync_changes where id = any($1) and log_id = $2",
    types: &[Type::UUID_ARRAY, Type::UUID],
};

/// The same for rows that were trimmed away; none of those had adjusted stamps. Looks up the first `$3` of `$1`, or all
/// of them if the log was trimmed past `$4`.
static TRIMMED: Sql = Sql {
    text: "
select id, min(created_at) as created_at from sync_history
where id = any(case when (select greatest(h.trimmed_to, h.trim_horizon) > $4 from sync_heads h where h.log_id = $2) then $1
                    else $1[1:$3] end)
  and log_id = $2
group by id",
    types: &[Type::UUID_ARRAY, Type::UUID, Type::INT4, Type::TIMESTAMPTZ],
};

/// The newest change of each record.
static NEWEST: Sql = Sql {
    text: "
select k.id, n.created_at, n.op, n.client_id
from unnest($2::uuid[], $3::text[], $4::text[]) as k (id, table_name, record_id)
cross join lateral (
    select c.created_at, c.op, c.client_id from sync_changes c
    where c.log_id = $1 and c.table_name = k.table_name and c.record_id = k.record_id
    order by c.created_at desc limit 1
) n",
    types: &[Type::UUID, Type::UUID_ARRAY, Type::TEXT_ARRAY, Type::TEXT_ARRAY],
};

/// True if a device has stored anything after a position, or may have: at most one page of the log is scanned.
static STORED_SINCE: Sql = Sql {
    text: "
select coalesce(bool_or(s.client_id = $2), false) or count(*) = 1000
from (select client_id from sync_changes where log_id = $1 and created_at > $3 order by created_at limit 1000) s",
    types: &[Type::UUID, Type::TEXT, Type::TIMESTAMPTZ],
};

/// Returns the statements of this file, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![
        ("head is locked", &HEAD_IS_LOCKED),
        ("known", &KNOWN),
        ("trimmed", &TRIMMED),
        ("newest", &NEWEST),
        ("stored since", &STORED_SINCE),
    ]
}

/// A push that is in the log.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The rows added now; `None` if all of it was stored before.
    pub stored: Option<Stored>,
    /// The row ids of its changes, in order.
    pub ids: Vec<Uuid>,
    /// The ids that were added now.
    pub added: Vec<Uuid>,
    /// The positions of its changes, in order, in microseconds.
    pub positions: Vec<i64>,
    /// The changes stored before, by index, each with its adjustment, if any.
    pub known: HashMap<usize, Option<Adjusted>>,
}

/// A row that was stored before.
#[derive(Debug)]
struct KnownRow {
    at: i64,
    /// The fields whose stamps were adjusted, and the new stamp.
    adjusted: Option<(Vec<String>, Stamp)>,
}

impl Pushed {
    /// Creates the result of a push whose rows were all added now.
    pub(super) fn new(entry: &Entry, stored: Stored) -> Pushed {
        Pushed::with(entry, Some(stored), &HashMap::new())
    }

    fn with(entry: &Entry, stored: Option<Stored>, known: &HashMap<Uuid, KnownRow>) -> Pushed {
        let first = stored.map_or(0, |stored| stored.first);
        let added: HashMap<Uuid, i64> = match entry.rows.len() == entry.ids.len() {
            // By far the most common case: each change has its row, in sequence.
            true => HashMap::new(),
            false => entry.rows.iter().zip(0..).map(|(row, n)| (row.id, first + n * Cursor::STEP)).collect(),
        };
        let position = |(index, id): (usize, &Uuid)| match known.get(id) {
            Some(row) => row.at,
            None => added.get(id).copied().unwrap_or(first + index as i64 * Cursor::STEP),
        };
        let positions = entry.ids.iter().enumerate().map(position).collect();
        let adjusted = |(index, id): (usize, &Uuid)| {
            let (row, change) = (known.get(id)?, entry.push.changes.get(index)?);
            let adjusted = row.adjusted.clone().map(|(fields, updated_at)| {
                let (table, id) = (change.table.clone(), change.record.clone());
                Adjusted { index, table, id, fields, updated_at }
            });
            Some((index, adjusted))
        };
        let known = entry.ids.iter().enumerate().filter_map(adjusted).collect();
        let added = entry.rows.iter().map(|row| row.id).collect();
        Pushed { stored, ids: entry.ids.clone(), added, positions, known }
    }

    /// Returns true if none of it was new.
    pub fn was_retried(&self) -> bool {
        self.stored.is_none()
    }
}

fn read_known(rows: &[Row]) -> Result<HashMap<Uuid, KnownRow>, StoreError> {
    let mut known = HashMap::with_capacity(rows.len());
    for row in rows {
        let Micros(at) = row.try_get("created_at")?;
        let (op, held, stamps): (&str, Option<&str>, Option<&str>) =
            (row.try_get("op")?, row.try_get("held")?, row.try_get("stamps")?);
        let adjusted = match (held, stamps) {
            (Some(held), Some(stamps)) => adjusted_stamp(op == Op::Insert.name(), held, stamps, at)?,
            _ => None,
        };
        known.insert(row.try_get("id")?, KnownRow { at, adjusted });
    }
    Ok(known)
}

/// The indexes that a row can be refused by because another session has just stored it.
const KEYS: [&str; 2] = ["sync_changes_pkey", "sync_heads_pkey"];

/// Returns true if a row is stored already. While its index is rebuilt (`reindex concurrently`) the error may name another
/// one, whose name begins with the index's own.
fn is_duplicate(error: &DbError) -> bool {
    error.constraint().is_some_and(|name| KEYS.iter().any(|key| name.starts_with(key)))
}

/// Finds out which changes of a push are stored already.
#[derive(Clone, Debug)]
pub struct KnownChanges {
    pub(super) insert: BatchInsert,
    pub(super) heavy: HeavyWork,
    pub(super) on_citus: bool,
}

impl KnownChanges {
    /// Stores the changes of a push that are not stored yet. Returns `None`, with nothing stored, if its log's head is
    /// locked.
    pub(super) async fn store_what_is_new(&self, entry: &Entry) -> Result<Option<Pushed>, StoreError> {
        if self.is_locked_for(entry).await? {
            return Ok(None);
        }
        let mut entry = entry.clone();
        let mut known = HashMap::new();
        for _ in 0..ATTEMPTS {
            if entry.looks_first {
                known = self.known_rows(&entry).await?;
                self.tell_apart_deletes(&mut entry, &known).await?;
                entry.choose_rows(|id| !known.contains_key(id));
                if entry.rows.is_empty() {
                    return Ok(Some(Pushed::with(&entry, None, &known)));
                }
            }
            match self.insert.insert(&[&entry]).await.map(|placed| placed.into_iter().next()) {
                Ok(Some(Placed::Stored(stored))) => return Ok(Some(Pushed::with(&entry, Some(stored), &known))),
                // This statement waits for a locked head, and fails if that takes too long.
                Ok(Some(Placed::Locked)) => return Err(StoreError::Dropped { table: "sync_heads" }),
                Ok(Some(Placed::Dropped)) => return Err(StoreError::Dropped { table: "sync_changes" }),
                Ok(_) => {}
                Err(error) if is_locked(&error) => return Ok(None),
                // Another session has stored one of the rows since this statement's snapshot.
                Err(error) if is_duplicate(&error) => {}
                Err(error) if self.on_citus && citus::is_duplicate(&error) => {}
                Err(error) => return Err(error.into()),
            }
            entry.looks_first = true;
        }
        Err(StoreError::Contended)
    }

    /// Returns true if a push is large, and its log's head locked: it need not be sent to the database to learn that.
    async fn is_locked_for(&self, entry: &Entry) -> Result<bool, StoreError> {
        if self.on_citus || entry.bytes() < LOOKS_AT_HEAD {
            return Ok(false);
        }
        let rows = traced::run(&self.insert.pool, traced::HEADS, &HEAD_IS_LOCKED, &[&entry.log.id.0]).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(false))
    }

    /// Returns the indexes of the changes that are not stored yet, each change once, however often the push contains
    /// it.
    pub async fn new_changes(&self, log: &Log, push: &Arc<Push>) -> Result<Vec<usize>, StoreError> {
        let mut entry = Entry::new(log.clone(), push.clone(), push.row_ids(&log.user_id, &log.app));
        let known = self.known_rows(&entry).await?;
        entry.choose_rows(|id| !known.contains_key(id));
        Ok(entry.rows.iter().map(|row| row.change).collect())
    }

    /// Returns the position before which a device that starts over receives its own changes, in response to a push with
    /// nothing new: all but those of the push. This is the start of the push if nothing of the device's is stored among
    /// or after its changes; pages are then not filled with rows that are left out of them.
    pub async fn own_changes_end(&self, log: LogId, device: &str, pushed: &Pushed) -> Result<i64, StoreError> {
        let mut positions = pushed.positions.clone();
        positions.sort_unstable();
        positions.dedup();
        let (Some(first), Some(last)) = (positions.first(), positions.last()) else { return Ok(PAST_ALL) };
        let rows =
            traced::run(&self.insert.pool, traced::OWN_WRITES, &STORED_SINCE, &[&log.0, &device, &Micros(*last)])
                .await?;
        if rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(true) {
            return Ok(PAST_ALL);
        }
        let is_one_range = positions.windows(2).all(|pair| pair[1] - pair[0] == Cursor::STEP);
        Ok(if is_one_range { *first } else { *last })
    }

    async fn known_rows(&self, entry: &Entry) -> Result<HashMap<Uuid, KnownRow>, StoreError> {
        let rows =
            traced::run(&self.insert.pool, traced::STORED_BEFORE, &KNOWN, &[&entry.ids, &entry.log.id.0]).await?;
        // All of their stamps are parsed, and a push may have a quarter of a million.
        let bytes = rows.iter().map(Row::raw_size_bytes).sum();
        let mut known = self.heavy.run(bytes, || read_known(&rows)).await?;
        drop(rows);
        self.add_trimmed_rows(entry, &mut known).await?;
        Ok(known)
    }

    /// Adds rows that were trimmed away. Must be looked up second: rows move from the log to the history, and never
    /// back.
    async fn add_trimmed_rows(&self, entry: &Entry, known: &mut HashMap<Uuid, KnownRow>) -> Result<(), StoreError> {
        let below = self.insert.history.ids_below();
        let mut ids: Vec<Uuid> = entry.ids.iter().filter(|id| !known.contains_key(*id)).copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        ids.sort_unstable();
        let old = i32::try_from(ids.partition_point(|id| *id < below)).unwrap_or(i32::MAX);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&ids, &entry.log.id.0, &old, &self.insert.history.latest()];
        for row in traced::run(&self.insert.pool, traced::TRIMMED_BEFORE, &TRIMMED, &parameters).await? {
            let Micros(at) = row.try_get("created_at")?;
            known.insert(row.try_get("id")?, KnownRow { at, adjusted: None });
        }
        Ok(())
    }

    /// An unstamped delete that is stored already is being sent again, unless its record has changed since: then it is
    /// a new delete, and gets a new id.
    async fn tell_apart_deletes(&self, entry: &mut Entry, known: &HashMap<Uuid, KnownRow>) -> Result<(), StoreError> {
        let push = entry.push.clone();
        let changes = push.changes.iter().enumerate();
        let unclear: Vec<_> = changes
            .filter(|(index, change)| is_unstamped_delete(change) && known.contains_key(&entry.ids[*index]))
            .collect();
        if unclear.is_empty() {
            return Ok(());
        }
        let newest =
            self.newest_of_records(entry, &unclear.iter().map(|(index, _)| *index).collect::<Vec<_>>()).await?;
        let scope = DeviceScope::new(&entry.log.user_id, &entry.log.app, &push.client);
        // The records that an earlier change in this same push changes, and by which row.
        let mut changed: HashMap<(&str, &str), Uuid> = HashMap::new();
        let unclear: HashSet<usize> = unclear.into_iter().map(|(index, _)| index).collect();
        for (index, change) in push.changes.iter().enumerate() {
            let (id, record) = (entry.ids[index], (change.table.as_str(), change.record.as_str()));
            if unclear.contains(&index) {
                let since = match (changed.get(&record), newest.get(&id)) {
                    (Some(row), _) => Some(row.as_u128() as i64),
                    (None, Some(at)) if known.get(&id).is_some_and(|row| row.at < *at) => Some(*at),
                    _ => None,
                };
                if let Some(since) = since {
                    entry.ids[index] = scope.row_id_after(&change.identity, since);
                    changed.remove(&record);
                }
            } else if !known.contains_key(&id) {
                changed.insert(record, id);
            }
        }
        Ok(())
    }

    /// Returns the position of the last change to the records of these changes, by row id, unless it was a delete by
    /// the same device.
    async fn newest_of_records(&self, entry: &Entry, of: &[usize]) -> Result<HashMap<Uuid, i64>, StoreError> {
        let changes = || of.iter().filter_map(|index| entry.push.changes.get(*index));
        let ids: Vec<Uuid> = of.iter().filter_map(|index| entry.ids.get(*index).copied()).collect();
        let tables: Vec<&str> = changes().map(|change| change.table.as_str()).collect();
        let records: Vec<&str> = changes().map(|change| change.record.as_str()).collect();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] = [&entry.log.id.0, &ids, &tables, &records];
        let mut newest = HashMap::new();
        for row in traced::run(&self.insert.pool, traced::HISTORY, &NEWEST, &parameters).await? {
            let Micros(at) = row.try_get("created_at")?;
            let (op, client): (&str, &str) = (row.try_get("op")?, row.try_get("client_id")?);
            if op != Op::Delete.name() || client != entry.push.client {
                newest.insert(row.try_get("id")?, at);
            }
        }
        Ok(newest)
    }
}
