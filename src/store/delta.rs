//! Reading a log in pages, bounded by count and by bytes (G2, G6).

use super::page_statements::{PAGE_OF_ALL_TABLES, PAGE_OF_ONE_TABLE, PAGE_OF_SOME_TABLES, PAGE_OF_UNLIKE_TABLES};
use super::{Store, StoreError, traced};
use crate::db::{Micros, Sql};
use crate::failpoints::Failpoint;
use crate::protocol::merge::{OwnWrites, StoredChange};
use crate::protocol::page::Page;
use crate::protocol::push::Op;
use crate::protocol::{Cursor, Log};
use std::collections::HashSet;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// Rows of a log, or of a table, that are looked at for one page, at most: its reader's own changes among them are passed over.
const LOOKED_AT: i64 = 20_000;
/// The same where several tables are merged step by step, which takes longer.
const LOOKED_AT_IN_TABLES: i64 = 5_000;

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
        ("page of unlike tables", &PAGE_OF_UNLIKE_TABLES),
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
}

impl Store {
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
        let (query, looked_at) = match request.tables {
            None => (&PAGE_OF_ALL_TABLES, LOOKED_AT),
            Some([_]) => (&PAGE_OF_ONE_TABLE, LOOKED_AT),
            Some(_) => (&PAGE_OF_SOME_TABLES, LOOKED_AT_IN_TABLES),
        };
        let (since, own_before) = (Micros(request.since.micros()), Micros(request.own.limit()));
        let (rows, bytes) = (limit as i64 + 1, i64::from(self.limits.bytes));
        let largest = bytes.max(i64::try_from(memory).unwrap_or(i64::MAX));
        let parameters: [&(dyn ToSql + Sync); 11] = [
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
            &looked_at,
        ];
        let rows = self.traced(traced::PAGE, query, &parameters).await?;
        let mut page = PageRows::read(rows, limit, largest)?;
        if page.ends_early && request.tables.is_some_and(|tables| tables.len() > 1) {
            let rows = self.traced(traced::PAGE, &PAGE_OF_UNLIKE_TABLES, &parameters).await?;
            page = PageRows::read(rows, limit, largest)?;
        }
        let PageRows { head, mut end, reader_holds, mut changes, .. } = page;
        if request.since.is_past(head) {
            return Ok(None);
        }
        if let OwnChanges::BesidePush { rows, .. } = request.own {
            let rows: HashSet<&Uuid> = rows.iter().collect();
            changes.retain(|change| !rows.contains(&change.id));
        }
        let (own, known) = match request.own {
            OwnChanges::All if !reader_holds && !may_leave_out(&changes) => (OwnWrites::new(true), changes.len()),
            _ => self.own_writes(log.id, request, &changes, reader_holds, end.is_none()).await?,
        };
        if known < changes.len() {
            changes.truncate(known);
            end = changes.last().map(|last| last.at);
        }
        let has_more = end.is_some();
        let until = match end {
            Some(end) if !Failpoint::PageEndsAtHead.is_on() => {
                Cursor::after(end).on_initial_sync(request.since.is_initial_sync())
            }
            _ if Failpoint::CursorFromClock.is_on() => {
                Cursor::after(self.clock.since_epoch().as_micros() as i64 / Cursor::STEP * Cursor::STEP)
            }
            _ => Cursor::after(head),
        };
        let own = own.going_on(request.reader.is_some() && request.since.micros() > 0);
        Ok(Some(Page { changes, own, until, has_more }))
    }
}

/// Whether on an initial sync something of these changes may have been replaced by their reader.
fn may_leave_out(changes: &[StoredChange]) -> bool {
    changes.iter().any(|change| change.is_own || change.op == Op::Delete)
}

/// What a page's statement brings.
#[derive(Debug, Default)]
struct PageRows {
    head: i64,
    /// Where the page ends, if there are more changes than those, or may be; none: at the head.
    end: Option<i64>,
    /// Whether that is because enough was looked at, and the page is not full.
    ends_early: bool,
    /// Whether the reader holds later stamps than are stored, anywhere in the log.
    reader_holds: bool,
    changes: Vec<StoredChange>,
}

impl PageRows {
    /// Reads the rows of a page of at most so many changes, the first of which has its values up to so many bytes.
    fn read(mut rows: Vec<Row>, limit: usize, largest: i64) -> Result<PageRows, StoreError> {
        let Some(first) = rows.first() else { return Ok(PageRows::default()) };
        let Micros(head) = first.try_get(0)?;
        let mut page = PageRows { head, ..PageRows::default() };
        if first.try_get::<_, Option<bool>>(11)?.is_none() {
            page.end = looked_until(first)?;
            page.ends_early = page.end.is_some();
            return Ok(page);
        }
        let size: i64 = first.try_get(13)?;
        if size > largest {
            return Err(StoreError::NeedsMemory(usize::try_from(size).unwrap_or(usize::MAX)));
        }
        page.reader_holds = first.try_get(12)?;
        rows.truncate(limit);
        if let Some(last) = rows.last() {
            let Micros(at) = last.try_get(2)?;
            let looked_until = looked_until(last)?;
            page.ends_early = looked_until.is_some();
            page.end = if last.try_get(11)? { Some(at) } else { looked_until };
        }
        page.changes = rows.into_iter().map(read_change).collect::<Result<_, _>>()?;
        Ok(page)
    }
}

/// Up to where changes were looked for, if not up to the head.
fn looked_until(row: &Row) -> Result<Option<i64>, StoreError> {
    Ok(row.try_get::<_, Option<Micros>>(14)?.map(|Micros(at)| at))
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
