//! The statement that stores pushes: many in one, each whole or not at all and once however often it comes (G1).

use super::history::HistoryHorizon;
use super::position::Stored;
use super::traced;
use crate::db::{DbError, Micros, Pool, Sql};
use crate::failpoints::Failpoint;
use crate::protocol::push::{NewChange, Op, Push};
use crate::protocol::{Cursor, Log, LogId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// The statement, given how it looks at the heads that are there, and how it takes them.
///
/// * `$1`–`$5`, `$19`: the logs, ordered by id: id, user's key, user, app, how many rows come, and their bytes.
/// * `$6`, `$10`: the pushes: their logs and devices.
/// * `$7`–`$9`, `$11`–`$18`: the rows: which push (from 1), how many positions before its log's new head, the columns.
/// * `$20`: those ids of rows that may have been stored and trimmed away since; `$21`: of a log whose rows were trimmed past
///   this position, any may have been; see [`super::history`].
///
/// A log of which any row is there is left out, for [`super::known`] to find out which of whose push. What it does not
/// say of a log, and of no such row either, is that somebody else holds its head.
///
/// It has as few parts as can be: for a batch of a few small pushes, starting them costs more than running them.
macro_rules! push_statement {
    ($look:literal, $($heads:tt)+) => {
        Sql {
            text: concat!(
                "with found as materialized (
    select h.log_id, greatest(h.trimmed_to, h.trim_horizon) as trimmed_to from sync_heads h where h.log_id = any($1::uuid[])",
                $look,
                "
), known as materialized (
    select array_agg(k.log_id) as logs from (
        select s.log_id from sync_changes s where s.id = any($9::uuid[])
        union all
        select f.log_id from found f
        where f.trimmed_to > 'epoch' and (cardinality($20::uuid[]) > 0 and sync_in_history(f.log_id, $20)
                                          or f.trimmed_to > $21 and sync_in_history(f.log_id, $9))
    ) as k
), heads as (",
                $($heads)+,
                "
), stored as (
    insert into sync_changes (id, log_id, user_id, app_id, client_id, table_name, record_id, op, data,
                              field_timestamps, held, extra, size, created_at)
    select r.id, heads.log_id, heads.user_id, heads.app_id, ($10::text[])[r.push], r.table_name, r.record_id, r.op,
           r.data::jsonb, r.stamps::jsonb, r.held::jsonb, r.extra::jsonb, r.size,
           heads.head - r.before_head * interval '20 microseconds'
    from unnest($7::int4[], $8::int4[], $9::uuid[], $11::text[], $12::text[],
                $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::int4[])
             as r (push, before_head, id, table_name, record_id, op, data, stamps, held, extra, size)
    join heads on heads.log_id = ($6::uuid[])[r.push]
)
select heads.log_id, heads.head, heads.previous, known.logs from known left join heads on true"
            ),
            types: PUSH_TYPES,
        }
    };
}

/// Takes the heads of the logs, given which, in the order of their ids.
///
/// `clock_timestamp()`, because `now()` is when the transaction began, not when its rows become visible. A head is
/// the greater of the clock and the next after the head before, so cursors ascend even where the clock does not.
/// All positions are multiples of 20 microseconds: see [`Cursor`]. Logs come in the order of their ids and stay in it, so
/// two batches never wait for each other.
macro_rules! take_heads {
    ($which:literal) => {
        concat!(
            "
    insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous,
                                 untrimmed_since, stored_changes, stored_bytes)
    select log_id, user_key, user_id, app_id,
           date_bin('20 microseconds', clock_timestamp(), 'epoch') + (changes - 1) * interval '20 microseconds',
           'epoch', now(), changes, bytes
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::int8[], $19::int8[])
             as l (log_id, user_key, user_id, app_id, changes, bytes)
    where (l.log_id = any((select logs from known)::uuid[])) is not true",
            $which,
            "
    on conflict (log_id) do update set
        previous = h.head,
        head = greatest(excluded.head, h.head + excluded.stored_changes * interval '20 microseconds'),
        untrimmed_since = coalesce(h.untrimmed_since, excluded.untrimmed_since),
        stored_changes = h.stored_changes + excluded.stored_changes,
        stored_bytes = h.stored_bytes + excluded.stored_bytes
    returning log_id, user_id, app_id, head, previous"
        )
    };
}

/// Takes the heads of the logs, waiting for whoever holds them, then stores the changes with the cursors up to them.
///
/// It waits long enough for another push, and not for whoever holds a head for longer: it has a connection meanwhile.
static PUSH: Sql = push_statement!(
    "",
    take_heads!(
        "
       and set_config('lock_timeout', '50', true) is not null"
    )
);

/// The same for those logs alone whose heads nobody holds: it waits for no lock.
///
/// A log that is new is made, which has to wait for whoever makes the same one at the same moment: not for long.
static PUSH_FREE: Sql = push_statement!(
    " for update skip locked",
    take_heads!(
        "
       and (l.log_id in (select log_id from found)
            or (select true from sync_heads s where s.log_id = l.log_id limit 1) is null
               and set_config('lock_timeout', '20', true) is not null)"
    )
);

/// The same for those logs alone that are there, and whose heads nobody holds.
static PUSH_PRESENT: Sql = push_statement!(
    " for update skip locked",
    take_heads!(
        "
       and l.log_id in (select log_id from found)"
    )
);

/// [`PUSH`] as one would first write it; see [`Failpoint::NoHeadRow`].
static PUSH_WITHOUT_LOCK: Sql = push_statement!(
    "",
    "
    select log_id, user_id, app_id,
           date_bin('20 microseconds', now(), 'epoch') + (changes - 1) * interval '20 microseconds' as head,
           timestamptz 'epoch' as previous
    from unnest($1::uuid[], $3::text[], $4::text[], $5::int8[]) as l (log_id, user_id, app_id, changes)
    where (l.log_id = any((select logs from known)::uuid[])) is not true
), noted as (
    insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous)
    select l.log_id, l.user_key, heads.user_id, heads.app_id, heads.head, heads.previous
    from unnest($1::uuid[], $2::uuid[], $19::int8[]) as l (log_id, user_key, bytes) join heads using (log_id)
    on conflict (log_id) do update set head = greatest(h.head, excluded.head)"
);

/// What the statement is given.
pub(super) const PUSH_TYPES: &[Type] = &[
    Type::UUID_ARRAY,
    Type::UUID_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::INT8_ARRAY,
    Type::UUID_ARRAY,
    Type::INT4_ARRAY,
    Type::INT4_ARRAY,
    Type::UUID_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::INT4_ARRAY,
    Type::INT8_ARRAY,
    Type::UUID_ARRAY,
    Type::TIMESTAMPTZ,
];

/// The statements here, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![("push", &PUSH), ("push to free logs", &PUSH_FREE), ("push to logs that are there", &PUSH_PRESENT)]
}

/// A push that is to be stored in the log of its user.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) log: Log,
    pub(super) push: Arc<Push>,
    /// The ids of the rows of its changes, in their order.
    pub(super) ids: Vec<Uuid>,
    /// What is to be stored of it, in the order of its changes, each change once.
    pub(super) rows: Vec<NewRow>,
    /// Whether it must be known what of it is stored before any of it is.
    pub(super) looks_first: bool,
}

/// A row to be stored: which of the push's changes, and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NewRow {
    pub(super) change: usize,
    pub(super) id: Uuid,
}

impl Entry {
    pub(super) fn new(log: Log, push: Arc<Push>, ids: Vec<Uuid>) -> Entry {
        let looks_first = push.changes.iter().any(is_unstamped_delete);
        let mut entry = Entry { log, push, ids, rows: Vec::new(), looks_first };
        entry.choose_rows(|_| true);
        entry
    }

    /// Chooses which ids are to be stored.
    pub(super) fn choose_rows(&mut self, wanted: impl Fn(&Uuid) -> bool) {
        if let [id] = self.ids[..] {
            self.rows = if wanted(&id) { vec![NewRow { change: 0, id }] } else { vec![] };
            return;
        }
        let mut seen = HashSet::with_capacity(self.ids.len());
        let rows = self.ids.iter().enumerate().filter(|(_, id)| wanted(id) && seen.insert(**id));
        self.rows = rows.map(|(change, id)| NewRow { change, id: *id }).collect();
    }
}

/// Whether only what was stored before tells if it is a delete of its own or one that is sent again.
pub(super) fn is_unstamped_delete(change: &NewChange) -> bool {
    change.op == Op::Delete && !change.is_stamped
}

/// The logs of a batch, and what each gets.
struct Logs<'a>(BTreeMap<LogId, LogRows<'a>>);

/// What a log gets: rows, and their bytes.
struct LogRows<'a> {
    log: &'a Log,
    changes: i64,
    bytes: i64,
}

impl<'a> Logs<'a> {
    fn of(entries: &[&'a Entry]) -> Logs<'a> {
        let mut logs = BTreeMap::new();
        for entry in entries {
            let rows = logs.entry(entry.log.id).or_insert(LogRows { log: &entry.log, changes: 0, bytes: 0 });
            rows.changes += entry.rows.len() as i64;
            let size = |row: &NewRow| entry.push.changes.get(row.change).map_or(0, |change| change.size as i64);
            rows.bytes += entry.rows.iter().map(size).sum::<i64>();
        }
        Logs(logs)
    }

    fn column<T>(&self, of: impl Fn(&LogRows<'a>) -> T) -> Vec<T> {
        self.0.values().map(of).collect()
    }

    /// For each entry, how many positions before the head of its log its last row is.
    fn before_heads(&self, entries: &[&Entry]) -> Vec<i64> {
        let mut left: BTreeMap<LogId, i64> = self.0.iter().map(|(id, rows)| (*id, rows.changes)).collect();
        let take = |entry: &&Entry| {
            let left = left.entry(entry.log.id).or_default();
            *left -= entry.rows.len() as i64;
            *left
        };
        entries.iter().map(take).collect()
    }
}

/// What became of a push in a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    Stored(Stored),
    /// Something of its log's pushes had been stored before. Nothing of it is stored now.
    Known,
    /// Somebody else holds the head of its log. Nothing of it is stored.
    Locked,
}

/// The statement in its three forms.
#[derive(Clone, Copy, Debug)]
pub(super) struct PushStatements {
    /// Waits a little for heads that somebody holds.
    pub(super) any: &'static Sql,
    /// Leaves those logs out.
    pub(super) free: &'static Sql,
    /// And those that are not there.
    pub(super) present: &'static Sql,
}

/// As PostgreSQL runs it.
pub(super) static STATEMENTS: PushStatements = PushStatements { any: &PUSH, free: &PUSH_FREE, present: &PUSH_PRESENT };

/// Stores pushes, many in one statement.
#[derive(Clone, Debug)]
pub(super) struct BatchInsert {
    pub(super) pool: Pool,
    pub(super) history: HistoryHorizon,
    pub(super) statements: PushStatements,
}

impl BatchInsert {
    /// Stores pushes, all or none of them, except for those of which something had been stored before. Waits a little for
    /// the heads of their logs.
    ///
    /// # Errors
    /// [`is_locked`] where somebody else holds one.
    pub(super) async fn insert(&self, entries: &[&Entry]) -> Result<Vec<Placed>, DbError> {
        let statement = if Failpoint::NoHeadRow.is_on() { &PUSH_WITHOUT_LOCK } else { self.statements.any };
        self.insert_by(statement, entries).await
    }

    /// The same for those whose logs' heads are free. Waits for none.
    pub(super) async fn insert_free(&self, entries: &[&Entry]) -> Result<Vec<Placed>, DbError> {
        self.insert_by(self.statements.free, entries).await
    }

    /// The same for those whose logs are there.
    pub(super) async fn insert_present(&self, entries: &[&Entry]) -> Result<Vec<Placed>, DbError> {
        self.insert_by(self.statements.present, entries).await
    }

    async fn insert_by(&self, statement: &'static Sql, entries: &[&Entry]) -> Result<Vec<Placed>, DbError> {
        let logs = Logs::of(entries);
        let before_heads = logs.before_heads(entries);
        let taken = self.insert_rows(statement, entries, &logs, &before_heads).await?;
        let mut heads = taken.heads;
        let place = |(entry, before_head): (&&Entry, &i64)| {
            let log = entry.log.id;
            let Some(head) = heads.get_mut(&log) else {
                return if taken.known.contains(&log) { Placed::Known } else { Placed::Locked };
            };
            let last = head.new - before_head * Cursor::STEP;
            let first = last - (entry.rows.len() as i64 - 1) * Cursor::STEP;
            // The next push of the same log follows this one.
            let previous = std::mem::replace(&mut head.previous, last);
            Placed::Stored(Stored { first, last, previous })
        };
        Ok(entries.iter().zip(&before_heads).map(place).collect())
    }

    async fn insert_rows(
        &self,
        statement: &'static Sql,
        entries: &[&Entry],
        logs: &Logs<'_>,
        before_heads: &[i64],
    ) -> Result<Taken, DbError> {
        let mut rows = Vec::new();
        for ((entry, before_head), ordinal) in entries.iter().zip(before_heads).zip(1_i32..) {
            let last = *before_head + entry.rows.len() as i64 - 1;
            rows.extend(entry.rows.iter().zip(0..).filter_map(|(row, n)| {
                let change = entry.push.changes.get(row.change)?;
                let before_head = (last - n) as i32;
                Some(PlacedRow { push: ordinal, before_head, id: row.id, change })
            }));
        }
        let history = self.history.ids_below();
        let maybe_trimmed: Vec<Uuid> = rows.iter().map(|placed| placed.id).filter(|id| *id < history).collect();
        let parameters: [&(dyn ToSql + Sync); 21] = [
            &logs.column(|rows| rows.log.id.0),
            &logs.column(|rows| rows.log.user.0),
            &logs.column(|rows| &*rows.log.user_id),
            &logs.column(|rows| &*rows.log.app),
            &logs.column(|rows| rows.changes),
            &column(entries, |entry| entry.log.id.0),
            &column(&rows, |placed| placed.push),
            &column(&rows, |placed| placed.before_head),
            &column(&rows, |placed| placed.id),
            &column(entries, |entry| entry.push.client.as_str()),
            &column(&rows, |placed| placed.change.table.as_str()),
            &column(&rows, |placed| placed.change.record.as_str()),
            &column(&rows, |placed| placed.change.op.name()),
            &column(&rows, |placed| placed.change.data.as_deref()),
            &column(&rows, |placed| placed.change.stamps.as_str()),
            &column(&rows, |placed| placed.change.claimed_stamps.as_deref()),
            &column(&rows, |placed| placed.change.extra.as_deref()),
            &column(&rows, |placed| i32::try_from(placed.change.size).unwrap_or(i32::MAX)),
            &logs.column(|rows| rows.bytes),
            &maybe_trimmed,
            &self.history.latest(),
        ];
        let mut taken = Taken::default();
        for row in traced::run(&self.pool, traced::PUSH, statement, &parameters).await? {
            if let Some(log) = row.try_get::<_, Option<Uuid>>(0)? {
                let (Micros(new), Micros(previous)) = (row.try_get(1)?, row.try_get(2)?);
                taken.heads.insert(LogId(log), Head { new, previous });
            }
            if taken.known.is_empty() {
                taken.known.extend(row.try_get::<_, Option<Vec<Uuid>>>(3)?.into_iter().flatten().map(LogId));
            }
        }
        Ok(taken)
    }
}

/// Whether a statement has waited for a lock for as long as it may.
pub(super) fn is_locked(error: &DbError) -> bool {
    error.sqlstate() == Some("55P03")
}

/// What the statement did.
#[derive(Debug, Default)]
struct Taken {
    /// The heads that it took.
    heads: HashMap<LogId, Head>,
    /// The logs in which something had been stored before.
    known: HashSet<LogId>,
}

/// The head of a log, in microseconds.
#[derive(Debug)]
struct Head {
    new: i64,
    /// Where the log stood before.
    previous: i64,
}

/// A change, and where it goes.
struct PlacedRow<'a> {
    push: i32,
    before_head: i32,
    id: Uuid,
    change: &'a NewChange,
}

fn column<'a, S, T>(of: &'a [S], what: impl Fn(&'a S) -> T) -> Vec<T> {
    of.iter().map(what).collect()
}
