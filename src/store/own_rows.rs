//! What was written to fields of records, as the statements of [`super::own_statements`] tell it, row by row into memory that is
//! reserved (G6).

use super::StoreError;
use super::page_memory::{BECOMES, PageMemory};
use crate::db::{Micros, RowSink};
use crate::protocol::Stamp;
use crate::protocol::merge::{OwnWrites, Rank, WRITE_SIZE};
use tokio_postgres::Row;

/// What was written to one field, or to other fields of a record.
#[derive(Debug)]
struct OwnRow {
    /// Where the record is among those that were asked for.
    place: usize,
    field: Option<String>,
    /// The best that the device wrote.
    best: Option<Rank>,
    /// The latest stamp that it claimed.
    claimed: Option<Stamp>,
    /// The last position at which it wrote.
    last: Option<i64>,
    /// The best that anybody wrote before the page.
    earlier: Option<Rank>,
}

/// All that a statement tells.
#[derive(Debug)]
pub(super) struct OwnRows<'m> {
    memory: &'m PageMemory,
    covered: usize,
    /// Bytes of the changes on the page.
    changes: usize,
    /// Bytes of what is held beside them, these rows included.
    beside: usize,
    rows: Vec<OwnRow>,
    stopped: Option<(usize, i64)>,
    failure: Option<StoreError>,
}

impl<'m> OwnRows<'m> {
    /// Nothing yet. There are changes of so many bytes, and so many bytes are held beside them.
    pub(super) fn new(memory: &'m PageMemory, changes: usize, beside: usize) -> OwnRows<'m> {
        let covered = memory.covered();
        OwnRows { memory, covered, changes, beside, rows: Vec::new(), stopped: None, failure: None }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    /// In which record, by its place, and at which position was the last row looked at, if there may be more.
    pub(super) fn stopped(&self) -> Option<(usize, i64)> {
        self.stopped
    }

    /// The same when all have arrived.
    ///
    /// # Errors
    /// [`StoreError::NeedsMemory`], or a row cannot be read.
    pub(super) fn finish(mut self) -> Result<OwnRows<'m>, StoreError> {
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(self),
        }
    }

    /// Adds them to what is known. `record` tells names by places.
    pub(super) fn add_to<'a>(self, own: &mut OwnWrites, record: impl Fn(usize) -> Option<(&'a str, &'a str)>) {
        for row in self.rows {
            let Some(record) = record(row.place) else { continue };
            if let Some(last) = row.last {
                own.add_record(record, last);
            }
            let Some(field) = row.field else { continue };
            if let Some(best) = row.best {
                own.add_own(record, &field, best, row.claimed);
            }
            if let Some(earlier) = row.earlier {
                own.add_earlier(record, &field, earlier);
            }
        }
    }

    fn read(&mut self, row: &Row) -> Result<(), StoreError> {
        let number: i64 = row.try_get(0)?;
        let place = usize::try_from(number - 1).unwrap_or_default();
        if let Some(Micros(at)) = row.try_get(1)? {
            // What is known of the first of its records may end as well.
            self.stopped = self.stopped.filter(|(first, _)| *first < place).or(Some((place, at)));
        }
        let last = row.try_get::<_, Option<Micros>>(5)?.map(|Micros(last)| last);
        let held: Option<&str> = row.try_get(4)?;
        let (best, earlier) = (rank(row, 3)?, rank(row, 6)?);
        if last.is_none() && earlier.is_none() {
            return Ok(());
        }
        let field: Option<&str> = row.try_get(2)?;
        self.beside += 2 * field.map_or(0, str::len) + WRITE_SIZE;
        if BECOMES * self.changes + self.beside > self.covered {
            let covered = self.memory.cover(self.changes, self.beside);
            self.covered = covered.ok_or(StoreError::NeedsMemory(BECOMES * (self.changes + self.beside)))?;
        }
        let claimed = held.and_then(|held| Stamp::parse(held).ok());
        self.rows.push(OwnRow { place, field: field.map(str::to_owned), best, claimed, last, earlier });
        Ok(())
    }
}

impl RowSink for OwnRows<'_> {
    fn take(&mut self, row: Row) {
        if self.failure.is_none() {
            self.failure = self.read(&row).err();
        }
    }
}

/// Reads the best write that a column tells of; none if there is none, or its stamp cannot be read.
fn rank(row: &Row, column: usize) -> Result<Option<Rank>, StoreError> {
    let best: Option<&str> = row.try_get(column)?;
    let Some((stamp, position)) = best.and_then(|best| best.split_at_checked(Stamp::WIDTH)) else { return Ok(None) };
    Ok(Stamp::parse(stamp).ok().zip(position.parse().ok()))
}
