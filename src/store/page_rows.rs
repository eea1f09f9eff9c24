//! The rows of a page as they arrive, in memory that is reserved for them (G6).

use super::StoreError;
use super::page_memory::{BECOMES, PageMemory};
use crate::db::{JsonText, Micros, RowSink};
use crate::limits::heavy::LIGHT;
use crate::protocol::merge::StoredChange;
use crate::protocol::page::{ENVELOPE, WrittenChanges, size_of};
use crate::protocol::push::{MAX_WRITTEN, Op};
use tokio_postgres::Row;

/// Bytes of a change that is read, at most. A database may have larger ones, from elsewhere: whoever holds one has no memory left
/// for anybody else, whatever its reader's share is.
const MAX_CHANGE: usize = 4 * MAX_WRITTEN;

/// What a page's statement brings.
#[derive(Debug)]
pub(super) struct PageRows<'m> {
    memory: &'m PageMemory,
    /// How much of it there is without asking, in bytes.
    covered: usize,
    /// What it takes so far, in bytes.
    bytes: usize,
    /// Bytes of changes that a page may have.
    max_bytes: usize,
    /// Whether there was no memory for the next change: no further ones are taken.
    is_full: bool,
    /// The position of the last one that arrived, taken or not; and whether they have come in order.
    last: i64,
    is_in_order: bool,
    /// Whether changes are written as they arrive.
    writes: bool,
    pub(super) head: i64,
    /// Whether there are more changes than those.
    has_more: bool,
    /// Up to where changes were looked for, if not up to the head, and the page is not full.
    looked_until: Option<i64>,
    /// Whether the reader holds later stamps than are stored, anywhere in the log.
    pub(super) reader_holds: bool,
    /// Whether on an initial sync something of these changes may have been replaced by their reader.
    pub(super) is_met: bool,
    pub(super) changes: Vec<StoredChange>,
    pub(super) written: WrittenChanges,
    /// Where the page ends, if there are more changes than those, or may be; none: at the head.
    pub(super) end: Option<i64>,
    /// Why there is no page.
    failure: Option<StoreError>,
}

impl RowSink for PageRows<'_> {
    fn take(&mut self, row: Row) {
        if self.failure.is_none() {
            self.failure = self.read(&row).err();
        }
    }
}

impl<'m> PageRows<'m> {
    pub(super) fn new(memory: &'m PageMemory, max_bytes: usize, writes: bool) -> PageRows<'m> {
        PageRows {
            memory,
            covered: memory.covered(),
            bytes: ENVELOPE,
            max_bytes,
            is_full: false,
            last: i64::MIN,
            is_in_order: true,
            writes,
            head: 0,
            has_more: false,
            looked_until: None,
            reader_holds: false,
            is_met: false,
            changes: Vec::new(),
            written: WrittenChanges::default(),
            end: None,
            failure: None,
        }
    }

    /// Whether enough was looked at before the page was full.
    pub(super) fn ends_early(&self) -> bool {
        self.looked_until.is_some() && !self.is_full
    }

    /// Ends the page before a change of so many bytes, for which there is no memory.
    fn end_before(&mut self, bytes: usize) -> Result<(), StoreError> {
        self.is_full = true;
        if self.changes.is_empty() { Err(StoreError::NeedsMemory(bytes)) } else { Ok(()) }
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
        self.is_in_order &= self.last <= at;
        self.last = at;
        if self.is_full {
            return Ok(());
        }
        if let Some(size) = row.try_get::<_, Option<i64>>(10)? {
            let bytes = usize::try_from(size).unwrap_or(usize::MAX);
            if bytes > MAX_CHANGE && self.changes.is_empty() {
                return Err(StoreError::TooLong { at, bytes });
            }
            // Those behind it may be as large: memory for a whole page is asked for.
            return self.end_before(bytes.max(self.max_bytes));
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
        let bytes = size_of(std::slice::from_ref(&change));
        if BECOMES * (self.bytes + bytes) > self.covered {
            match self.memory.cover(self.bytes + bytes, 0) {
                Some(covered) => self.covered = covered,
                // All that was compared: whoever reserves this much gets on.
                None => return self.end_before(self.bytes + bytes),
            }
        }
        self.bytes += bytes;
        self.is_met |= is_own || row.try_get::<_, Option<bool>>(11)?.unwrap_or(false);
        // A large one keeps a thread for long: it is left for when that is given to others, and so are those behind it.
        self.writes &= bytes <= LIGHT;
        if self.writes {
            self.written.add(&change)?;
        }
        self.changes.push(change);
        Ok(())
    }

    /// The same when all have arrived.
    pub(super) fn finish(mut self) -> Result<PageRows<'m>, StoreError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        // So they come; but only an order that is asked for of the whole would have PostgreSQL promise it, and wait for the last.
        if !self.is_in_order {
            if self.is_full {
                // Nobody knows which ones were not taken.
                return Err(StoreError::NeedsMemory(self.max_bytes));
            }
            self.changes.sort_by_key(|change| change.at);
            self.written = WrittenChanges::default();
        }
        self.has_more |= self.is_full;
        self.end = self.looked_until;
        if self.has_more {
            self.end = self.changes.last().map(|last| last.at);
        }
        Ok(self)
    }
}
