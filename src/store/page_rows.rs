//! The rows of a page as they arrive, in memory reserved for them (G6).

use super::StoreError;
use super::page_memory::{BECOMES, PageMemory};
use crate::db::{JsonText, Micros, RowSink};
use crate::limits::heavy::LIGHT;
use crate::protocol::merge::StoredChange;
use crate::protocol::page::{ENVELOPE, WrittenChanges, size_of};
use crate::protocol::push::{MAX_WRITTEN, Op};
use tokio_postgres::Row;

/// Maximum bytes of a change that is read. A database may contain larger ones, from other sources; holding one would
/// leave no memory for anybody else, whatever its reader's share.
const MAX_CHANGE: usize = 4 * MAX_WRITTEN;

/// The result of a page's statement.
#[derive(Debug)]
pub(super) struct PageRows<'m> {
    pub(super) memory: &'m PageMemory,
    /// Bytes covered without reserving more.
    covered: usize,
    /// Bytes used so far.
    bytes: usize,
    /// Bytes by which the text that has been written exceeds that.
    excess: usize,
    /// Maximum bytes of changes on a page.
    max_bytes: usize,
    /// True if there was no memory for the next change; no more are accepted.
    is_full: bool,
    /// The position of the last change that arrived, accepted or not, and whether all arrived in order.
    last: i64,
    is_in_order: bool,
    /// True if changes are serialized as they arrive.
    writes: bool,
    pub(super) head: i64,
    /// True if there are more changes than these.
    has_more: bool,
    /// The position up to which changes were scanned, if that is not the head and the page is not full.
    looked_until: Option<i64>,
    /// True if none of the changes were sent, because they are more than was asked for.
    pub(super) is_long: bool,
    /// True if row-level security may hide changes.
    pub(super) is_walled: bool,
    /// True if the reader holds later stamps than are stored, anywhere in the log.
    pub(super) reader_holds: bool,
    /// On an initial sync: true if the reader may have replaced some of these changes.
    pub(super) is_met: bool,
    pub(super) changes: Vec<StoredChange>,
    pub(super) written: WrittenChanges,
    /// The end of the page, if there are more changes, or may be; `None`: the page ends at the head.
    pub(super) end: Option<i64>,
    /// The reason that there is no page.
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
            excess: 0,
            max_bytes,
            is_full: false,
            last: i64::MIN,
            is_in_order: true,
            writes,
            head: 0,
            has_more: false,
            looked_until: None,
            is_long: false,
            is_walled: false,
            reader_holds: false,
            is_met: false,
            changes: Vec::new(),
            written: WrittenChanges::default(),
            end: None,
            failure: None,
        }
    }

    /// Returns true if scanning stopped before the page was full.
    pub(super) fn ends_early(&self) -> bool {
        self.looked_until.is_some() && !self.is_full
    }

    /// Ends the page before a change of this many bytes, for which there is no memory.
    fn end_before(&mut self, bytes: usize) -> Result<(), StoreError> {
        self.is_full = true;
        if self.changes.is_empty() { Err(StoreError::NeedsMemory(bytes)) } else { Ok(()) }
    }

    /// Columns by number: finding them by name means searching a row's names each time.
    fn read(&mut self, row: &Row) -> Result<(), StoreError> {
        let Micros(at) = row.try_get(1)?;
        let is_own = row.try_get::<_, Option<bool>>(8)?.unwrap_or(false);
        let rows_trimmed = row.try_get::<_, Option<bool>>(9)?.unwrap_or(false);
        let Some(id) = row.try_get(0)? else {
            (self.head, self.reader_holds, self.has_more) = (at, is_own, rows_trimmed);
            self.is_walled = row.try_get::<_, Option<&str>>(4)?.is_some();
            self.is_long = row.try_get::<_, Option<i64>>(10)?.is_some();
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
            // The changes after it may be as large, so memory for a whole page is requested.
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
        if !self.cover(self.bytes + bytes, self.excess) {
            // The amount that was compared: a reader that reserves this much will make progress.
            return self.end_before(self.bytes + bytes + self.excess);
        }
        self.bytes += bytes;
        self.is_met |= is_own || row.try_get::<_, Option<bool>>(11)?.unwrap_or(false);
        // Serializing a large change occupies a thread for long; it and all changes after it are left for later, when
        // the thread can be shared.
        self.writes &= bytes <= LIGHT;
        if self.writes {
            self.write(&change)?;
        }
        self.changes.push(change);
        Ok(())
    }

    /// Leaves only the first `changes` of them on the page.
    pub(super) fn cut(&mut self, changes: usize) {
        self.changes.truncate(changes);
        self.written.truncate(changes);
        self.end = self.changes.last().map(|last| last.at);
    }

    /// Serializes a change, unless its text is much longer than what is stored and there is no memory for it.
    fn write(&mut self, change: &StoredChange) -> Result<(), StoreError> {
        let before = self.written.count();
        self.written.add(change)?;
        let excess = self.written.size().saturating_sub(self.bytes);
        let is_page = excess == 0 || self.written.size() <= self.max_bytes;
        if is_page && self.cover(self.bytes, excess) {
            self.excess = excess;
        } else {
            self.written.truncate(before);
            self.writes = false;
        }
        Ok(())
    }

    /// Reserves memory for this many bytes of changes, and for what their text takes beyond that.
    fn cover(&mut self, changes: usize, excess: usize) -> bool {
        if BECOMES * changes + excess <= self.covered {
            return true;
        }
        let covered = self.memory.cover(changes, excess);
        self.covered = covered.unwrap_or(self.covered);
        covered.is_some()
    }

    /// Completes the page once all rows have arrived.
    pub(super) fn finish(mut self) -> Result<PageRows<'m>, StoreError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        // They normally arrive in order. Having PostgreSQL guarantee it would make it wait for the last row.
        if !self.is_in_order {
            if self.is_full {
                // It is unknown which changes were not accepted.
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
