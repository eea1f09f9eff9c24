//! Reading a log in pages, bounded by count and by bytes (G2, G6).

use super::own_writes::OnPage;
use super::page_memory::{BECOMES, PageMemory};
use super::page_request::{OwnChanges, PageRequest};
use super::page_rows::PageRows;
use super::page_statements::{PAGE_OF_ALL_TABLES, PAGE_OF_ONE_TABLE, PAGE_OF_SOME_TABLES, PAGE_OF_UNLIKE_TABLES};
use super::pages::Pages;
use super::{StoreError, traced};
use crate::db::{Micros, Sql};
use crate::failpoints::Failpoint;
use crate::limits::reads::ReadTurn;
use crate::protocol::merge::OwnWrites;
use crate::protocol::page::{Page, size_of};
use crate::protocol::page_bound::{Fitting, fitting};
use crate::protocol::{Cursor, Log, LogId};
use std::collections::HashSet;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// Maximum number of rows of a log, or of a table, that are scanned for one page; the reader's own changes among them
/// are skipped.
const LOOKED_AT: i64 = 20_000;
/// The same when several tables are merged step by step, which takes longer.
const LOOKED_AT_IN_TABLES: i64 = 5_000;

/// Maximum size of a change that is read before memory for it is reserved. A larger one would be held by its connection
/// until then.
const READ_UNASKED: usize = 1 << 20;

/// Few pages of more bytes are read at the same time: their statements take 2 to 5 ms of a processor of the database, and
/// 3 to 9 ms for each further MiB (docs/adr/0045-what-takes-long-runs-in-turns.md).
const LONG: i64 = 512 << 10;

/// Finds a log with this position that was erased, which is remembered for an hour.
static ERASED: Sql =
    Sql { text: "select from sync_erased where log_id = $1 and head >= $2", types: &[Type::UUID, Type::TIMESTAMPTZ] };

/// The position of a log's newest change.
static HEAD: Sql = Sql { text: "select head from sync_heads where log_id = $1", types: &[Type::UUID] };

/// Returns the statements of this file, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![
        ("erased", &ERASED),
        ("head", &HEAD),
        ("page", &PAGE_OF_ALL_TABLES),
        ("page of one table", &PAGE_OF_ONE_TABLE),
        ("page of some tables", &PAGE_OF_SOME_TABLES),
        ("page of unlike tables", &PAGE_OF_UNLIKE_TABLES),
    ]
}

impl Pages {
    /// Returns the changes after a cursor, as many as fit in a page.
    ///
    /// If one of our cursors is past the newest change, the database went back to an earlier state. The reader is then
    /// served from the beginning, to miss nothing stored below its cursor.
    ///
    /// # Errors
    /// [`StoreError::NeedsMemory`] if `memory` does not cover the first change, or what must be read along with it;
    /// none of it is held then.
    pub async fn page(
        &self,
        log: &Log,
        request: &PageRequest<'_>,
        memory: &PageMemory,
        turn: &mut ReadTurn,
    ) -> Result<Page, StoreError> {
        let page = self.try_page(log, request, memory, turn).await?;
        if let Some(page) = page {
            return Ok(page);
        }
        self.note_rewind(log, request.since).await?;
        let from_beginning = PageRequest { since: Cursor::BEGINNING, own: request.own.begun_anew(), ..request.clone() };
        let page = self.try_page(log, &from_beginning, memory, turn).await?;
        page.ok_or(StoreError::Contended)
    }

    /// Records that a reader of this log has shown that the database went back, unless the log was erased.
    pub async fn note_rewind(&self, log: &Log, since: Cursor) -> Result<(), StoreError> {
        match self.pool.query(&ERASED, &[&log.id.0, &Micros(since.micros())]).await?.is_empty() {
            true => self.rewinds.note(log.user),
            false => tracing::debug!(user_key = %log.user.0, "a reader of an erased log is served from the beginning"),
        }
        Ok(())
    }

    /// Returns the position of a log's newest change, in microseconds; 0 if there is none.
    pub async fn head(&self, log: LogId) -> Result<i64, StoreError> {
        let rows = traced::run(&self.pool, traced::HEADS, &HEAD, &[&log.0]).await?;
        let head = rows.first().map(|row| row.try_get(0)).transpose()?;
        Ok(head.map_or(0, |Micros(head)| head))
    }

    /// Returns a page; `None` if the cursor is past the end of the log.
    async fn try_page(
        &self,
        log: &Log,
        request: &PageRequest<'_>,
        memory: &PageMemory,
        turn: &mut ReadTurn,
    ) -> Result<Option<Page>, StoreError> {
        let mut rows = self.rows_after_cursor(log, request, memory, turn).await?;
        if rows.head > 0 {
            self.existing.note(log.id);
        }
        if request.since.is_past(rows.head) {
            return Ok(None);
        }
        if let OwnChanges::BesidePush { rows: pushed, .. } = request.own {
            let pushed: HashSet<&Uuid> = pushed.iter().collect();
            rows.changes.retain(|change| !pushed.contains(&change.id));
        }
        let own = self.own_writes_of_page(log, request, &mut rows, turn).await?;
        let excess = self.fit(&mut rows, &own).await?;
        let own = own.going_on(request.reader.is_some() && request.since.micros() > 0);
        let PageRows { head, end, changes, written, .. } = rows;
        // Only if a statement of somebody's own moved changes or the head, there are changes past it. A cursor after them
        // would be no valid one, and its reader would start over again and again.
        let end = end.filter(|end| *end < head);
        let until = self.cursor_after(request, head, end);
        Ok(Some(Page { changes, own, head, until, has_more: end.is_some(), written, excess }))
    }

    /// Reads the changes after the request's cursor, by the statement for its tables.
    async fn rows_after_cursor<'m>(
        &self,
        log: &Log,
        request: &PageRequest<'_>,
        memory: &'m PageMemory,
        turn: &mut ReadTurn,
    ) -> Result<PageRows<'m>, StoreError> {
        let page = self.rows_up_to(LONG, log, request, memory).await?;
        if !page.is_long {
            return Ok(page);
        }
        drop(page);
        let _long = turn.for_long().await?;
        self.rows_up_to(i64::MAX, log, request, memory).await
    }

    /// The same, without the changes if they take more than this many bytes.
    async fn rows_up_to<'m>(
        &self,
        long: i64,
        log: &Log,
        request: &PageRequest<'_>,
        memory: &'m PageMemory,
    ) -> Result<PageRows<'m>, StoreError> {
        let limit = self.limits.changes as usize;
        let (query, looked_at) = match request.tables {
            None => (&PAGE_OF_ALL_TABLES, LOOKED_AT),
            Some([_]) => (&PAGE_OF_ONE_TABLE, LOOKED_AT),
            Some(_) => (&PAGE_OF_SOME_TABLES, LOOKED_AT_IN_TABLES),
        };
        let (since, own_before) = (Micros(request.since.micros()), Micros(request.own.limit()));
        let (rows, bytes) = (limit as i64 + 1, i64::from(self.limits.bytes));
        let largest = i64::try_from(READ_UNASKED.max(memory.covered() / BECOMES)).unwrap_or(i64::MAX);
        let is_met_asked = request.reader.is_some() && request.own == OwnChanges::All;
        let parameters: [&(dyn ToSql + Sync); 13] = [
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
            &long,
        ];
        let page = self.read_rows(query, &parameters, request, memory).await?;
        if page.ends_early() && request.tables.is_some_and(|tables| tables.len() > 1) {
            drop(page);
            return self.read_rows(&PAGE_OF_UNLIKE_TABLES, &parameters, request, memory).await;
        }
        Ok(page)
    }

    /// Reads the reader's own writes to the records of a page. The page is cut to the changes for which they are known.
    async fn own_writes_of_page(
        &self,
        log: &Log,
        request: &PageRequest<'_>,
        rows: &mut PageRows<'_>,
        turn: &mut ReadTurn,
    ) -> Result<OwnWrites, StoreError> {
        if request.own == OwnChanges::All && !rows.reader_holds && !rows.is_met {
            return Ok(OwnWrites::new(true));
        }
        loop {
            let page = OnPage {
                log: log.id,
                request,
                changes: &rows.changes,
                written_bytes: rows.written.size(),
                reader_holds: rows.reader_holds,
                head: rows.head,
                is_last: rows.end.is_none(),
                memory: rows.memory,
            };
            let (own, known) = match self.own_writes(&page, turn).await {
                Ok((own, known)) if known == rows.changes.len() => return Ok(own),
                Ok((own, known)) => (Some(own), known),
                // Fewer changes require less knowledge of own writes.
                Err(StoreError::NeedsMemory(_)) if rows.changes.len() > 1 => (None, rows.changes.len() / 2),
                Err(error) => return Err(error),
            };
            rows.cut(known);
            if let Some(own) = own {
                return Ok(own);
            }
        }
    }

    /// Ends a page before its text takes more than a page because it exceeds what is stored. Returns by how much it does,
    /// at most.
    async fn fit(&self, rows: &mut PageRows<'_>, own: &OwnWrites) -> Result<usize, StoreError> {
        let bytes = size_of(&rows.changes);
        if rows.written.count() == rows.changes.len() && own.is_empty() {
            return Ok(rows.written.size().saturating_sub(bytes));
        }
        let (changes, max_bytes) = (&rows.changes, self.limits.bytes as usize);
        let Fitting { changes, excess } = self.heavy.run(bytes, || fitting(changes, own, max_bytes)).await?;
        if changes < rows.changes.len() {
            rows.cut(changes);
        }
        Ok(excess)
    }

    /// Returns the cursor with which the reader asks for what comes after a page.
    fn cursor_after(&self, request: &PageRequest<'_>, head: i64, end: Option<i64>) -> Cursor {
        match end {
            Some(end) if !Failpoint::PageEndsAtHead.is_on() => {
                Cursor::after(end).on_initial_sync(request.since.is_initial_sync())
            }
            _ if Failpoint::CursorFromClock.is_on() => {
                Cursor::after(self.clock.since_epoch().as_micros() as i64 / Cursor::STEP * Cursor::STEP)
            }
            _ => Cursor::after(head),
        }
    }
}
