//! Reading a log in pages, bounded by count and by bytes (G2, G6).

use super::pages::Pages;
use super::{StoreError, traced};
use crate::db::{Micros, RowSink, Sql};
use crate::failpoints::Failpoint;
use crate::limits::heavy::LIGHT;
use crate::protocol::merge::{OwnWrites, StoredChange};
use crate::protocol::page::{Page, WrittenChanges};
use crate::protocol::push::Op;
use crate::protocol::{Cursor, Log};
use std::collections::HashSet;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// One page of a log: the head and the changes in one statement, so that they belong to one snapshot.
///
/// `$log` is the condition on the log, over `$1` or by user and app over `$8` and `$9`; `$tables` the one on the table,
/// over `$6`. One row more than a page is read to know whether there is
/// more; a row is left out by the sum of the bytes up to its own, but for the first. Values are written out
/// only for the rows that are left, and not for a first one of more than `$10` bytes: its reader has no memory for it yet. `more`: whether this row is followed by another. `is_own`: whether the reader stored
/// it. `reader_holds`: whether the reader holds later stamps than are stored anywhere.
macro_rules! page_query {
    ($log:literal, $tables:literal) => {
        Sql {
            text: concat!(
            "select h.head, c.id, c.created_at, c.table_name, c.record_id, c.op, case when c.size <= $10 then c.data::text end as data,
                    case when c.size <= $10 then c.field_timestamps::text end as stamps,
                    case when c.size <= $10 then c.extra::text end as extra, c.client_id = $3 as is_own, c.rows_trimmed, c.more,
                    exists (select from sync_changes o
                            where o.log_id = $1 and o.client_id = $3 and o.held is not null) as reader_holds, c.size::int8
             from sync_heads h
             left join lateral (
                 select * from (
                     select r.*,
                            lead(r.created_at) over before_it is not null as more,
                            sum(r.size) over before_it as bytes
                     from (
                         select id, created_at, client_id, table_name, record_id, op, data, field_timestamps, extra, size, rows_trimmed
                         from sync_changes
                         where ",
            $log,
            " and created_at > $2
                           and ($3::text is null or client_id <> $3 or created_at < $4)
                           and ",
            $tables,
            "
                         order by created_at limit $5
                     ) r
                     window before_it as (order by r.created_at rows between unbounded preceding and 1 preceding)
                 ) sized where bytes is null or bytes + size <= $7
             ) c on true
             where h.log_id = $1 order by c.created_at"
            ),
            types: &[
                Type::UUID,
                Type::TIMESTAMPTZ,
                Type::TEXT,
                Type::TIMESTAMPTZ,
                Type::INT8,
                Type::TEXT_ARRAY,
                Type::INT8,
                Type::TEXT,
                Type::TEXT,
                Type::INT8,
            ],
        }
    };
}

static PAGE_OF_ALL_TABLES: Sql = page_query!("log_id = $1 and ($8::text, $9::text) is not null", "$6::text[] is null");
/// By user and app: the index of tables begins with them, because programs that write SQL know no log.
static PAGE_OF_ONE_TABLE: Sql = page_query!("user_id = $8 and app_id = $9", "table_name = ($6::text[])[1]");
/// Each table is looked into by itself, for as many positions as a page has: so many tables cost so many probes of the index,
/// however much the log has of others. The earliest of those positions are the page.
static PAGE_OF_SOME_TABLES: Sql = page_query!(
    "log_id = $1 and ($8::text, $9::text) is not null",
    "created_at = any(array(
         select found.created_at from unnest($6::text[]) as t (name)
         cross join lateral (
             select s.created_at from sync_changes s
             where s.user_id = $8 and s.app_id = $9 and s.table_name = t.name and s.created_at > $2
               and ($3::text is null or s.client_id <> $3 or s.created_at < $4)
             order by s.created_at limit $5
         ) found
         order by found.created_at limit $5))"
);

/// Whether a log that had this position was erased, which is known for an hour.
static ERASED: Sql =
    Sql { text: "select from sync_erased where log_id = $1 and head >= $2", types: &[Type::UUID, Type::TIMESTAMPTZ] };

/// The statements here, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![
        ("erased", &ERASED),
        ("page", &PAGE_OF_ALL_TABLES),
        ("page of one table", &PAGE_OF_ONE_TABLE),
        ("page of some tables", &PAGE_OF_SOME_TABLES),
    ]
}

/// Which of its own changes a device gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnChanges<'a> {
    /// None.
    Without,
    /// On an initial sync, in answer to a push: those stored before a position, but for the rows of the push itself.
    BesidePush {
        /// The head before it, in microseconds.
        before: i64,
        /// The ids of its rows.
        rows: &'a [Uuid],
    },
    /// On an initial sync: all.
    All,
}

impl OwnChanges<'_> {
    /// What a reader at this cursor gets.
    pub fn at(since: Cursor) -> OwnChanges<'static> {
        if since.is_initial_sync() { OwnChanges::All } else { OwnChanges::Without }
    }

    /// The same, where the database went back and so the reader has to begin again.
    fn begun_anew(self) -> Self {
        if self == OwnChanges::Without { OwnChanges::All } else { self }
    }

    pub(super) fn is_initial_sync(self) -> bool {
        self != OwnChanges::Without
    }

    /// Whether the device has just stored changes that it is not sent.
    pub(super) fn is_answer(self) -> bool {
        matches!(self, OwnChanges::BesidePush { .. })
    }

    /// Before which position own changes are read.
    fn limit(self) -> i64 {
        match self {
            OwnChanges::Without => 0,
            OwnChanges::BesidePush { before, .. } => before,
            OwnChanges::All => PAST_ALL,
        }
    }
}

/// Past any cursor, in microseconds, and within what timestamptz holds.
pub(super) const PAST_ALL: i64 = 253_402_300_799_000_000;

/// Which page of a log is wanted.
#[derive(Clone, Debug)]
pub struct PageRequest<'a> {
    /// From where.
    pub since: Cursor,
    /// The device that reads.
    pub reader: Option<&'a str>,
    /// What becomes of the reader's own changes.
    pub own: OwnChanges<'a>,
    /// These tables only; none means all.
    pub tables: Option<&'a [String]>,
    /// Whether an answer is made of it: then its changes are written as they arrive.
    pub is_for_answer: bool,
}

impl Pages {
    /// The changes after a cursor, as many as a page holds.
    ///
    /// A cursor of ours past the newest change proves that the database went back to an earlier state: its reader is
    /// served from the beginning, so that nothing stored below its cursor is missed.
    ///
    /// # Errors
    /// [`StoreError::NeedsMemory`] if the page begins with a change that is larger than a page, and than the `memory` that
    /// its reader has set aside, in bytes: nothing of it was read.
    pub async fn page(&self, log: &Log, request: &PageRequest<'_>, memory: usize) -> Result<Page, StoreError> {
        let page = self.try_page(log, request, memory).await?;
        if let Some(page) = page {
            return Ok(page);
        }
        self.note_rewind(log, request.since).await?;
        let from_beginning = PageRequest { since: Cursor::BEGINNING, own: request.own.begun_anew(), ..request.clone() };
        let page = self.try_page(log, &from_beginning, memory).await?;
        page.ok_or(StoreError::Contended)
    }

    /// Takes note that a reader of this log has shown that the database went back; if it was not the log that was erased.
    pub async fn note_rewind(&self, log: &Log, since: Cursor) -> Result<(), StoreError> {
        match self.pool.query(&ERASED, &[&log.id.0, &Micros(since.micros())]).await?.is_empty() {
            true => self.rewinds.note(log.user),
            false => tracing::debug!(user_key = %log.user.0, "a reader of an erased log is served from the beginning"),
        }
        Ok(())
    }

    /// A page; none if the cursor is past the log's end.
    async fn try_page(&self, log: &Log, request: &PageRequest<'_>, memory: usize) -> Result<Option<Page>, StoreError> {
        let limit = self.limits.changes as usize;
        let query = match request.tables {
            None => &PAGE_OF_ALL_TABLES,
            Some([_]) => &PAGE_OF_ONE_TABLE,
            Some(_) => &PAGE_OF_SOME_TABLES,
        };
        let (since, own_before) = (Micros(request.since.micros()), Micros(request.own.limit()));
        let (rows, bytes) = (limit as i64 + 1, i64::from(self.limits.bytes));
        let largest = bytes.max(i64::try_from(memory).unwrap_or(i64::MAX));
        let parameters: [&(dyn ToSql + Sync); 10] = [
            &log.id.0,
            &since,
            &request.reader,
            &own_before,
            &rows,
            &request.tables,
            &bytes,
            &&*log.user_id,
            &&*log.app,
            &largest,
        ];
        // What becomes of the reader's own changes and of those that meet them is known when all have been read.
        let writes = request.is_for_answer && !request.own.is_answer();
        let sink = || PageRows { limit, largest, writes, ..PageRows::default() };
        let rows = traced::run_into(&self.pool, traced::PAGE, query, &parameters, &sink).await?;
        let PageRows { head, has_more, reader_holds, mut changes, written, failure, .. } = rows;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if request.since.is_past(head) {
            return Ok(None);
        }
        let until = match changes.last() {
            Some(last) if has_more && !Failpoint::PageEndsAtHead.is_on() => {
                Cursor::after(last.at).on_initial_sync(request.since.is_initial_sync())
            }
            _ if Failpoint::CursorFromClock.is_on() => {
                Cursor::after(self.clock.since_epoch().as_micros() as i64 / Cursor::STEP * Cursor::STEP)
            }
            _ => Cursor::after(head),
        };
        if let OwnChanges::BesidePush { rows, .. } = request.own {
            let rows: HashSet<&Uuid> = rows.iter().collect();
            changes.retain(|change| !rows.contains(&change.id));
        }
        let own = match request.own {
            OwnChanges::All if !reader_holds && !may_leave_out(&changes) => OwnWrites::new(true),
            _ => self.own_writes(log.id, request, &changes, reader_holds).await?,
        };
        let own = own.going_on(request.reader.is_some() && request.since.micros() > 0);
        Ok(Some(Page { changes, own, until, has_more, written }))
    }
}

/// Whether on an initial sync something of these changes may have been replaced by their reader.
fn may_leave_out(changes: &[StoredChange]) -> bool {
    changes.iter().any(|change| change.is_own || change.op == Op::Delete)
}

/// What a page's statement brings.
#[derive(Debug, Default)]
struct PageRows {
    /// Changes on it, at most.
    limit: usize,
    /// Of the first change, values up to so many bytes are read.
    largest: i64,
    /// Whether changes are written as they arrive.
    writes: bool,
    head: i64,
    /// Whether there are more changes than those.
    has_more: bool,
    /// Whether the reader holds later stamps than are stored, anywhere in the log.
    reader_holds: bool,
    changes: Vec<StoredChange>,
    written: WrittenChanges,
    /// Why there is no page.
    failure: Option<StoreError>,
}

impl RowSink for PageRows {
    fn take(&mut self, row: Row) {
        // One row more than the page's may come, to show that there is one.
        if self.failure.is_none() && self.changes.len() < self.limit {
            self.failure = self.read(row).err();
        }
    }
}

impl PageRows {
    fn read(&mut self, row: Row) -> Result<(), StoreError> {
        if self.changes.is_empty() {
            Micros(self.head) = row.try_get(0)?;
        }
        let Some(has_more) = row.try_get(11)? else { return Ok(()) };
        let size: i64 = row.try_get(13)?;
        if size > self.largest {
            return Err(StoreError::NeedsMemory(usize::try_from(size).unwrap_or(usize::MAX)));
        }
        if self.changes.is_empty() {
            self.reader_holds = row.try_get(12)?;
        }
        self.has_more = has_more;
        let change = read_change(row)?;
        // A large one keeps a thread for long, and those behind it are left for then too.
        self.writes &= size <= LIGHT as i64;
        if self.writes {
            self.written.add(&change)?;
        }
        self.changes.push(change);
        Ok(())
    }
}

/// By number: names are looked for among all of a row's, each time.
fn read_change(row: Row) -> Result<StoredChange, StoreError> {
    let Micros(at) = row.try_get(2)?;
    let op: &str = row.try_get(5)?;
    Ok(StoredChange {
        id: row.try_get(1)?,
        at,
        table: row.try_get(3)?,
        record: row.try_get(4)?,
        op: Op::from_name(op).ok_or_else(|| StoreError::UnknownOp(op.to_owned()))?,
        data: row.try_get(6)?,
        stamps: row.try_get(7)?,
        extra: row.try_get(8)?,
        is_own: row.try_get::<_, Option<bool>>(9)?.unwrap_or(false),
        rows_trimmed: row.try_get::<_, Option<bool>>(10)?.unwrap_or(false),
    })
}
