//! One log of a stream: where its reader stands, and what a page of it becomes.

use super::events::{group_by_table, tell};
use crate::protocol::merge::UnreadableChange;
use crate::protocol::page::{Event, Page, encode_event};
use crate::protocol::{Cursor, Log};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A log that a stream is asked for.
#[derive(Debug)]
pub struct LogRequest {
    /// The log.
    pub log: Log,
    /// None means every table of the app.
    pub tables: Option<Vec<String>>,
    /// From where.
    pub since: Cursor,
}

/// How often a stream keeps each name: to compare with, and to know of which tables its client has been told.
const COPIES: usize = 3;
/// What a name takes beside its letters, in bytes, about.
const NAME_BYTES: usize = 64;

impl LogRequest {
    /// What its names take while the stream is open, about, in bytes.
    pub(super) fn name_bytes(&self) -> usize {
        let tables: usize = self.tables.iter().flatten().map(|table| table.len() + NAME_BYTES).sum();
        COPIES * tables + self.log.app.len() + NAME_BYTES
    }
}

/// How far a stream has read one log.
#[derive(Debug)]
pub(super) struct LogReader {
    pub(super) request: Arc<LogRequest>,
    pub(super) cursor: Cursor,
    pub(super) phase: Phase,
    /// A wake-up came while a page was being read, which may not have what it was about: read again.
    pub(super) again: bool,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Reading what is there already. These requested tables are to be told where they stand at the end of it: they
    /// have had no event, or one whose cursor is before their last change.
    Backlog { pending_tables: BTreeSet<String> },
    /// Everything up to the cursor has been sent.
    Live,
    /// There may be something after the cursor.
    CatchingUp,
}

/// What a page moves the reader to.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) cursor: Cursor,
    initial_sync: bool,
}

impl LogReader {
    pub(super) fn new(mut request: LogRequest) -> LogReader {
        // They are looked for by halves: a push may name thousands.
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

    /// Takes note that something was stored.
    pub(super) fn wake(&mut self) {
        match self.phase {
            Phase::Live => self.phase = Phase::CatchingUp,
            _ => self.again = true,
        }
    }

    /// Whether one of these tables is asked for.
    pub(super) fn reads<'a>(&self, mut tables: impl Iterator<Item = &'a str>) -> bool {
        let asked = self.request.tables.as_deref();
        asked.is_none_or(|asked| tables.any(|table| asked.binary_search_by(|asked| asked.as_str().cmp(table)).is_ok()))
    }

    /// Whether the device gets its own changes back: from the beginning until the backlog has drained. The cursor
    /// of an empty log is still the beginning then, but the initial sync is over. A database that went back begins one
    /// anew.
    pub(super) fn is_initial_sync(&self) -> bool {
        self.cursor.is_initial_sync() && (self.is_in_backlog() || self.cursor.micros() > 0)
    }

    /// Where the reader stands after a page.
    pub(super) fn end_of(&self, page: &Page) -> End {
        let initial_sync =
            self.is_initial_sync() || (page.until.is_initial_sync() && page.has_more && !self.cursor.is_initial_sync());
        End { cursor: page.until.on_initial_sync(initial_sync && page.has_more), initial_sync }
    }

    /// The page as events, of which the last has this `id`; the reader stands at its end then. `app`: what the events
    /// say of where their changes belong, if they do.
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

    /// Takes note of whether a table's cursor is past all that was sent of it.
    fn note_told(&mut self, table: &str, is_current: bool) {
        let Phase::Backlog { pending_tables } = &mut self.phase else { return };
        if is_current {
            pending_tables.remove(table);
        } else if self.request.tables.is_some() {
            pending_tables.insert(table.to_owned());
        }
    }
}
