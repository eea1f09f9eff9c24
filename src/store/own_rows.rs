//! Results of the statements in [`super::own_statements`], read row by row into reserved memory (G6).

use super::StoreError;
use super::page_memory::{BECOMES, PageMemory};
use crate::db::{Micros, RowSink};
use crate::protocol::Stamp;
use crate::protocol::merge::{OwnWrites, Rank, WRITE_SIZE};
use tokio_postgres::Row;

/// The writes to one field of a record, or to its other fields.
#[derive(Debug)]
struct OwnRow {
    /// The index of the record among those asked for.
    place: usize,
    field: Option<String>,
    /// The device's best write.
    best: Option<Rank>,
    /// The latest stamp that it claimed.
    claimed: Option<Stamp>,
    /// The position of its last write.
    last: Option<i64>,
    /// The best write by anybody before the page.
    earlier: Option<Rank>,
}

/// The result of a statement.
#[derive(Debug)]
pub(super) struct OwnRows<'m> {
    memory: &'m PageMemory,
    covered: usize,
    /// Bytes of the changes on the page.
    changes: usize,
    /// Bytes of everything else that is held, including these rows.
    beside: usize,
    rows: Vec<OwnRow>,
    stopped: Option<(usize, i64)>,
    failure: Option<StoreError>,
}

impl<'m> OwnRows<'m> {
    /// Creates an empty result, for a page with `changes` bytes of changes and `beside` bytes of other data.
    pub(super) fn new(memory: &'m PageMemory, changes: usize, beside: usize) -> OwnRows<'m> {
        let covered = memory.covered();
        OwnRows { memory, covered, changes, beside, rows: Vec::new(), stopped: None, failure: None }
    }

    /// Returns the number of rows.
    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    /// Returns the record's index and the position at which reading stopped, if there may be more.
    pub(super) fn stopped(&self) -> Option<(usize, i64)> {
        self.stopped
    }

    /// Completes the result once all rows have arrived.
    ///
    /// # Errors
    /// [`StoreError::NeedsMemory`], or a row cannot be decoded.
    pub(super) fn finish(mut self) -> Result<OwnRows<'m>, StoreError> {
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(self),
        }
    }

    /// Adds the rows to what is known. `record` returns the names of the record at an index.
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
            // Reading may have stopped for several records; the first of them counts.
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

/// Decodes a column with a rank; `None` if it is null or its stamp is invalid.
fn rank(row: &Row, column: usize) -> Result<Option<Rank>, StoreError> {
    let best: Option<&str> = row.try_get(column)?;
    let Some((stamp, position)) = best.and_then(|best| best.split_at_checked(Stamp::WIDTH)) else { return Ok(None) };
    Ok(Stamp::parse(stamp).ok().zip(position.parse().ok()))
}
