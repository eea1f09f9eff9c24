//! Storing pushes: many in one statement, each whole or not at all, and once no matter how often it is sent (G1).

use super::announcement::CommitNotice;
use super::history::HistoryHorizon;
use super::position::Stored;
use super::push_statements::{PUSH_WITHOUT_LOCK, PushStatements};
use super::traced;
use crate::db::{DbError, Micros, Pool, Sql};
use crate::failpoints::Failpoint;
use crate::protocol::push::{NewChange, Op, Push};
use crate::protocol::{Cursor, Log, LogId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// A push to be stored in its user's log.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) log: Log,
    pub(super) push: Arc<Push>,
    /// The row ids of its changes, in the order of the changes.
    pub(super) ids: Vec<Uuid>,
    /// The rows to store, in the order of the changes, each change once.
    pub(super) rows: Vec<NewRow>,
    /// True if it must be known which of its changes are stored already before any of them is stored.
    pub(super) looks_first: bool,
}

/// A row to store: the index of the change in the push, and its id.
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

    /// Returns the size of its changes in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.push.changes.iter().map(|change| change.size).sum()
    }

    /// Selects the ids to store.
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

/// Returns true if only the rows stored earlier tell whether this is a new delete or one that is sent again.
pub(super) fn is_unstamped_delete(change: &NewChange) -> bool {
    change.op == Op::Delete && !change.is_stamped
}

/// The logs of a batch, and the totals that each receives.
struct Logs<'a>(BTreeMap<LogId, LogRows<'a>>);

/// The totals of a log: rows, and their bytes.
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

    /// Returns, for each entry, the distance in positions from its last row to the head of its log.
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

/// The outcome of a push in a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    Stored(Stored),
    /// Some of its log's pushes had been stored before. Nothing of it is stored now.
    Known,
    /// The head of its log could not be taken: another session holds it, or a trigger drops its row. Nothing of it is
    /// stored.
    Locked,
    /// A trigger has dropped some rows of the statement, perhaps some of this push.
    Dropped,
}

/// Stores pushes, many in one statement.
#[derive(Clone, Debug)]
pub(super) struct BatchInsert {
    pub(super) pool: Pool,
    pub(super) history: HistoryHorizon,
    pub(super) statements: PushStatements,
}

impl BatchInsert {
    /// Stores all of the pushes or none of them, except for logs in which something had been stored before. Waits a
    /// little for the heads of their logs.
    ///
    /// # Errors
    /// [`is_locked`] if another session holds one.
    pub(super) async fn insert(&self, entries: &[&Entry]) -> Result<Vec<Placed>, DbError> {
        let statement = if Failpoint::NoHeadRow.is_on() { &PUSH_WITHOUT_LOCK } else { self.statements.any };
        self.insert_by(statement, entries).await
    }

    /// The same for pushes whose logs' heads are free. Does not wait for any head.
    pub(super) async fn insert_free(&self, entries: &[&Entry]) -> Result<Vec<Placed>, DbError> {
        self.insert_by(self.statements.free, entries).await
    }

    /// The same for pushes whose logs exist.
    pub(super) async fn insert_present(&self, entries: &[&Entry]) -> Result<Vec<Placed>, DbError> {
        self.insert_by(self.statements.present, entries).await
    }

    /// Returns true if a push's transaction can notify the replicas.
    pub(super) fn can_notify(&self) -> bool {
        self.statements.notifying.is_some()
    }

    /// Like [`insert_free`](Self::insert_free) for a single push, with a notification in its transaction; `None` if
    /// that is not possible ([`can_notify`](Self::can_notify)).
    ///
    /// # Errors
    /// An error for which [`is_about_notifying`] is true if the database refused the notification; nothing is stored then.
    pub(super) async fn insert_notifying(
        &self,
        entry: &Entry,
        notice: &CommitNotice,
    ) -> Option<Result<Placed, DbError>> {
        let statement = self.statements.notifying?;
        let placed = self.insert_with(statement, &[entry], Some(notice)).await;
        // There is one for each entry.
        placed.map(|placed| placed.into_iter().next()).transpose()
    }

    async fn insert_by(&self, statement: &'static Sql, entries: &[&Entry]) -> Result<Vec<Placed>, DbError> {
        self.insert_with(statement, entries, None).await
    }

    async fn insert_with(
        &self,
        statement: &'static Sql,
        entries: &[&Entry],
        notice: Option<&CommitNotice>,
    ) -> Result<Vec<Placed>, DbError> {
        let logs = Logs::of(entries);
        let before_heads = logs.before_heads(entries);
        let taken = self.insert_rows(statement, entries, &logs, &before_heads, notice).await?;
        let mut heads = taken.heads;
        let is_taken = |log: &LogId| heads.contains_key(log);
        let given: i64 = logs.0.iter().filter(|(log, _)| is_taken(log)).map(|(_, rows)| rows.changes).sum();
        let is_complete = taken.rows.is_none_or(|rows| rows == given);
        let place = |(entry, before_head): (&&Entry, &i64)| {
            let log = entry.log.id;
            let Some(head) = heads.get_mut(&log) else {
                return if taken.known.contains(&log) { Placed::Known } else { Placed::Locked };
            };
            if !is_complete {
                return Placed::Dropped;
            }
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
        notice: Option<&CommitNotice>,
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
        let mut parameters = Vec::from(parameters);
        if let Some(CommitNotice { channel, key, before, after }) = notice {
            parameters.extend([channel as &(dyn ToSql + Sync), key, before, after]);
        }
        let mut taken = Taken::default();
        for row in traced::run(&self.pool, traced::PUSH, statement, &parameters).await? {
            if let Some(log) = row.try_get::<_, Option<Uuid>>(0)? {
                let (Micros(new), Micros(previous)) = (row.try_get(1)?, row.try_get(2)?);
                taken.heads.insert(LogId(log), Head { new, previous });
            }
            if taken.known.is_empty() {
                taken.known.extend(row.try_get::<_, Option<Vec<Uuid>>>(3)?.into_iter().flatten().map(LogId));
            }
            taken.rows = row.try_get(4)?;
        }
        Ok(taken)
    }
}

/// Returns true if a statement gave up waiting for a lock.
pub(super) fn is_locked(error: &DbError) -> bool {
    error.sqlstate() == Some("55P03")
}

/// True if a notifying statement may succeed without its notification: the notification queue is full, or another
/// transaction holds the lock.
pub(super) fn is_about_notifying(error: &DbError) -> bool {
    error.sqlstate() == Some("54000") || is_locked(error)
}

/// The result of the statement.
#[derive(Debug, Default)]
struct Taken {
    /// The heads that it advanced.
    heads: HashMap<LogId, Head>,
    /// The logs in which something had been stored before.
    known: HashSet<LogId>,
    /// The number of rows that were stored; `None` on Citus, which does not allow triggers on its tables.
    rows: Option<i64>,
}

/// The head of a log, in microseconds.
#[derive(Debug)]
struct Head {
    new: i64,
    /// The head before the statement.
    previous: i64,
}

/// A change and its position.
struct PlacedRow<'a> {
    push: i32,
    before_head: i32,
    id: Uuid,
    change: &'a NewChange,
}

fn column<'a, S, T>(of: &'a [S], what: impl Fn(&'a S) -> T) -> Vec<T> {
    of.iter().map(what).collect()
}
