//! Reading a log in pages, bounded by count and by bytes (G2, G6).

use super::page_statements::{PAGE_OF_ALL_TABLES, PAGE_OF_ONE_TABLE, PAGE_OF_SOME_TABLES, PAGE_OF_UNLIKE_TABLES};
use super::pages::Pages;
use super::{StoreError, traced};
use crate::db::{JsonText, Micros, RowSink, Sql};
use crate::failpoints::Failpoint;
use crate::limits::heavy::LIGHT;
use crate::protocol::merge::{OwnWrites, StoredChange};
use crate::protocol::page::{Page, WrittenChanges, size_of};
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
        let (query, looked_at) = match request.tables {
            None => (&PAGE_OF_ALL_TABLES, LOOKED_AT),
            Some([_]) => (&PAGE_OF_ONE_TABLE, LOOKED_AT),
            Some(_) => (&PAGE_OF_SOME_TABLES, LOOKED_AT_IN_TABLES),
        };
        let (since, own_before) = (Micros(request.since.micros()), Micros(request.own.limit()));
        let (rows, bytes) = (limit as i64 + 1, i64::from(self.limits.bytes));
        let largest = bytes.max(i64::try_from(memory).unwrap_or(i64::MAX));
        let is_met_asked = request.reader.is_some() && request.own == OwnChanges::All;
        let parameters: [&(dyn ToSql + Sync); 12] = [
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
            &is_met_asked,
        ];
        let mut page = self.read_rows(query, &parameters, request).await?;
        if page.ends_early() && request.tables.is_some_and(|tables| tables.len() > 1) {
            page = self.read_rows(&PAGE_OF_UNLIKE_TABLES, &parameters, request).await?;
        }
        let PageRows { head, mut end, reader_holds, is_met, mut changes, written, .. } = page;
        if request.since.is_past(head) {
            return Ok(None);
        }
        if let OwnChanges::BesidePush { rows, .. } = request.own {
            let rows: HashSet<&Uuid> = rows.iter().collect();
            changes.retain(|change| !rows.contains(&change.id));
        }
        let (own, known) = match request.own {
            OwnChanges::All if !reader_holds && !is_met => (OwnWrites::new(true), changes.len()),
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
        Ok(Some(Page { changes, own, until, has_more, written }))
    }

    async fn read_rows(
        &self,
        query: &'static Sql,
        parameters: &[&(dyn ToSql + Sync)],
        request: &PageRequest<'_>,
    ) -> Result<PageRows, StoreError> {
        // Of an answer to a push, changes may be left out when all have been read.
        let writes = request.is_for_answer && !request.own.is_answer();
        let sink = || PageRows { writes, ..PageRows::default() };
        traced::run_into(&self.pool, traced::PAGE, query, parameters, &sink).await?.finish()
    }
}

/// What a page's statement brings.
#[derive(Debug, Default)]
struct PageRows {
    /// Whether changes are written as they arrive.
    writes: bool,
    head: i64,
    /// Whether there are more changes than those.
    has_more: bool,
    /// Up to where changes were looked for, if not up to the head, and the page is not full.
    looked_until: Option<i64>,
    /// Whether the reader holds later stamps than are stored, anywhere in the log.
    reader_holds: bool,
    /// Whether on an initial sync something of these changes may have been replaced by their reader.
    is_met: bool,
    changes: Vec<StoredChange>,
    written: WrittenChanges,
    /// Where the page ends, if there are more changes than those, or may be; none: at the head.
    end: Option<i64>,
    /// Why there is no page.
    failure: Option<StoreError>,
}

impl RowSink for PageRows {
    fn take(&mut self, row: Row) {
        if self.failure.is_none() {
            self.failure = self.read(&row).err();
        }
    }
}

impl PageRows {
    /// Whether enough was looked at before the page was full.
    fn ends_early(&self) -> bool {
        self.looked_until.is_some()
    }

    /// By number: names are looked for among all of a row's, each time.
    fn read(&mut self, row: &Row) -> Result<(), StoreError> {
        let Micros(at) = row.try_get(1)?;
        let is_own = row.try_get::<_, Option<bool>>(8)?.unwrap_or(false);
        let rows_trimmed = row.try_get::<_, Option<bool>>(9)?.unwrap_or(false);
        let Some(id) = row.try_get(0)? else {
            (self.head, self.reader_holds, self.has_more) = (at, is_own, rows_trimmed);
            self.looked_until = row.try_get::<_, Option<Micros>>(12)?.map(|Micros(until)| until);
            return Ok(());
        };
        if let Some(size) = row.try_get::<_, Option<i64>>(10)? {
            return Err(StoreError::NeedsMemory(usize::try_from(size).unwrap_or(usize::MAX)));
        }
        let op: &str = row.try_get(4)?;
        let json = |column| Ok::<_, StoreError>(row.try_get::<_, Option<JsonText>>(column)?.map(|JsonText(text)| text));
        let change = StoredChange {
            id,
            at,
            table: row.try_get(2)?,
            record: row.try_get(3)?,
            op: Op::from_name(op).ok_or_else(|| StoreError::UnknownOp(op.to_owned()))?,
            data: json(5)?,
            stamps: json(6)?.unwrap_or_else(|| "{}".to_owned()),
            extra: json(7)?,
            is_own,
            rows_trimmed,
        };
        self.is_met |= is_own || row.try_get::<_, Option<bool>>(11)?.unwrap_or(false);
        // A large one keeps a thread for long: it is left for when that is given to others, and so are those behind it.
        self.writes &= size_of(std::slice::from_ref(&change)) <= LIGHT;
        if self.writes {
            self.written.add(&change)?;
        }
        self.changes.push(change);
        Ok(())
    }

    /// The same when all have arrived.
    fn finish(mut self) -> Result<PageRows, StoreError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        // So they come; but only an order that is asked for of the whole would have PostgreSQL promise it, and wait for the last.
        if !self.changes.is_sorted_by_key(|change| change.at) {
            self.changes.sort_by_key(|change| change.at);
            self.written = WrittenChanges::default();
        }
        self.end = self.looked_until;
        if self.has_more {
            self.end = self.changes.last().map(|last| last.at);
        }
        Ok(self)
    }
}
