//! One log of a stream: its reader's position, and how its pages become events.

use super::events::{group_by_table, tell};
use crate::protocol::merge::UnreadableChange;
use crate::protocol::page::{Event, Page, encode_event};
use crate::protocol::{Cursor, Log};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A log that a stream reads.
#[derive(Debug)]
pub struct LogRequest {
    /// The log.
    pub log: Log,
    /// The requested tables; `None` means every table of the app.
    pub tables: Option<Vec<String>>,
    /// The cursor to start from.
    pub since: Cursor,
}

/// Copies of each name that a stream keeps: for comparisons, and to track which tables' cursors its client has been
/// told.
const COPIES: usize = 3;
/// Approximate memory of a name besides its characters, in bytes.
const NAME_BYTES: usize = 64;

impl LogRequest {
    /// Approximate memory that its names take while the stream is open, in bytes.
    pub(super) fn name_bytes(&self) -> usize {
        let tables: usize = self.tables.iter().flatten().map(|table| table.len() + NAME_BYTES).sum();
        COPIES * tables + self.log.app.len() + NAME_BYTES
    }
}

/// The progress of a stream in one log.
#[derive(Debug)]
pub(super) struct LogReader {
    pub(super) request: Arc<LogRequest>,
    pub(super) cursor: Cursor,
    pub(super) phase: Phase,
    /// A wake-up arrived while a page was being read, which may lack the change that caused it: read again.
    pub(super) again: bool,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Reading what is already there. At its end, these requested tables are told their cursors: they have had no
    /// event, or one whose cursor is before their last change.
    Backlog { pending_tables: BTreeSet<String> },
    /// Everything up to the cursor has been sent.
    Live,
    /// There may be changes after the cursor.
    CatchingUp,
}

/// The reader's position after a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) cursor: Cursor,
    initial_sync: bool,
}

impl LogReader {
    pub(super) fn new(mut request: LogRequest) -> LogReader {
        // Sorted for binary search: a push may name thousands of tables.
        request.tables.iter_mut().for_each(|tables| tables.sort_unstable());
        let pending_tables = request.tables.iter().flatten().cloned().collect();
        let (cursor, phase) = (request.since, Phase::Backlog { pending_tables });
        LogReader { request: Arc::new(request), cursor, phase, again: false }
    }

    pub(super) fn app(&self) -> &str {
        &self.request.log.app
    }

    pub(super) fn has_to_read(&self) -> bool {
        !matches!(self.phase, Phase::Live)
    }

    pub(super) fn is_in_backlog(&self) -> bool {
        matches!(self.phase, Phase::Backlog { .. })
    }

    /// Notes that something was stored.
    pub(super) fn wake(&mut self) {
        match self.phase {
            Phase::Live => self.phase = Phase::CatchingUp,
            _ => self.again = true,
        }
    }

    /// True if one of these tables is requested.
    pub(super) fn reads<'a>(&self, mut tables: impl Iterator<Item = &'a str>) -> bool {
        let asked = self.request.tables.as_deref();
        asked.is_none_or(|asked| tables.any(|table| asked.binary_search_by(|asked| asked.as_str().cmp(table)).is_ok()))
    }

    /// True if the device gets its own changes back: from the beginning until the backlog has been read. The cursor of
    /// an empty log is still the beginning then, but the initial sync is over. A database that went back starts another
    /// one.
    pub(super) fn is_initial_sync(&self) -> bool {
        self.cursor.is_initial_sync() && (self.is_in_backlog() || self.cursor.micros() > 0)
    }

    /// Returns the reader's position after a page.
    pub(super) fn end_of(&self, page: &Page) -> End {
        let initial_sync =
            self.is_initial_sync() || (page.until.is_initial_sync() && page.has_more && !self.cursor.is_initial_sync());
        End { cursor: page.until.on_initial_sync(initial_sync && page.has_more), initial_sync }
    }

    /// Writes a page as events, the last one with this `id`, and moves the reader to the page's end. `app`: the app
    /// that the events name, if they do.
    pub(super) fn write(
        &mut self,
        page: Page,
        end: End,
        id: &str,
        app: Option<&str>,
    ) -> Result<String, UnreadableChange> {
        let mut out = String::with_capacity(page.size());
        let Page { mut changes, mut own, has_more, .. } = page;
        let complete = group_by_table(&mut changes);
        let last = complete.len().saturating_sub(1);
        for (index, (changes, complete)) in changes.chunk_by(|a, b| a.table == b.table).zip(complete).enumerate() {
            let ends_page = index == last;
            let until = if ends_page { end.cursor } else { Cursor::after(complete).on_initial_sync(end.initial_sync) };
            let table = &changes[0].table;
            let id = ends_page.then_some(id);
            encode_event(
                &mut out,
                Event { app, table, until, has_more: has_more || !ends_page, id },
                changes,
                &mut own,
            )?;
            self.note_told(table, changes.last().is_none_or(|last| last.at <= until.micros()));
        }
        self.cursor = end.cursor;
        if !has_more {
            let next = if std::mem::take(&mut self.again) { Phase::CatchingUp } else { Phase::Live };
            if let Phase::Backlog { pending_tables } = std::mem::replace(&mut self.phase, next) {
                tell(&mut out, &pending_tables, end.cursor, id, app);
            }
        }
        Ok(out)
    }

    /// Notes whether the cursor that a table's client has is past all of the table's changes sent so far.
    fn note_told(&mut self, table: &str, is_current: bool) {
        let Phase::Backlog { pending_tables } = &mut self.phase else { return };
        if is_current {
            pending_tables.remove(table);
        } else if self.request.tables.is_some() {
            pending_tables.insert(table.to_owned());
        }
    }
}
