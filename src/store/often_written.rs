//! Cache of the positions at which devices wrote records that were written very often (G6).
//!
//! Only a record's rows tell which of its changes a device wrote. If there are very many rows, they are not read again
//! for each page: the result is cached for a while. This only saves time: whatever is not cached is read from the log.

use crate::db::Micros;
use crate::protocol::LogId;
use moka::sync::Cache;
use std::sync::Arc;
use std::time::Duration;

/// Maximum bytes of the cache.
const MAX_BYTES: u64 = 8 << 20;
/// How long entries are kept.
const KEPT: Duration = Duration::from_secs(300);
/// Maximum number of positions kept for a device and record. If the device wrote it more often, nothing is kept.
const MAX_POSITIONS: usize = 4_000;
/// Approximate size of an entry besides its names and positions, in bytes.
const ENTRY: usize = 256;

/// A device, and a record of a log: table and id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Writer {
    log: LogId,
    device: String,
    record: (String, String),
}

impl Writer {
    pub(super) fn new(log: LogId, device: &str, (table, id): (&str, &str)) -> Writer {
        Writer { log, device: device.to_owned(), record: (table.to_owned(), id.to_owned()) }
    }

    fn len(&self) -> usize {
        self.device.len() + self.record.0.len() + self.record.1.len()
    }
}

/// The positions at which a device wrote a record: all of those from `from` up to, but excluding, `until`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Positions {
    from: i64,
    until: i64,
    written: Vec<i64>,
}

/// The cache.
#[derive(Clone, Debug)]
pub(super) struct OftenWritten(Cache<Writer, Arc<Positions>>);

impl OftenWritten {
    pub(super) fn new() -> OftenWritten {
        let weigh = |writer: &Writer, positions: &Arc<Positions>| {
            u32::try_from(ENTRY + writer.len() + size_of_val(&*positions.written)).unwrap_or(u32::MAX)
        };
        OftenWritten(Cache::builder().weigher(weigh).max_capacity(MAX_BYTES).time_to_live(KEPT).build())
    }

    /// Returns the positions of a device's writes, if they are known from `from` on and the log has not gone back
    /// since.
    fn get(&self, writer: &Writer, from: i64, head: i64) -> Option<Arc<Positions>> {
        let is_useful = |known: &Arc<Positions>| known.from <= from && from < known.until;
        self.0.get(writer).filter(is_useful).filter(|known| known.until <= head.saturating_add(1))
    }

    fn note(&self, writer: Writer, positions: Positions) {
        if positions.written.len() <= MAX_POSITIONS {
            self.0.insert(writer, Arc::new(positions));
        }
    }
}

/// A record with very many rows, while it is being read.
pub(super) struct LongRecord {
    /// Its index among the records asked for.
    pub(super) record: usize,
    writer: Writer,
    /// The next page need not read it again before this position.
    until: i64,
    /// The cached entry, if any.
    known: Option<Arc<Positions>>,
    /// The positions of the reader's writes found so far.
    found: Vec<i64>,
    /// True if one statement is not enough to read it.
    is_long: bool,
}

impl LongRecord {
    /// Starts with a record that has not been read before the position `before` yet, in a log with this head, for a
    /// page that begins at `first`.
    pub(super) fn new(
        often: &OftenWritten,
        record: usize,
        writer: Writer,
        (first, before, head): (i64, i64, i64),
    ) -> LongRecord {
        // Positions past the head may not all be filled yet.
        let until = before.min(head.saturating_add(1));
        LongRecord { record, known: often.get(&writer, first, head), writer, until, found: Vec::new(), is_long: false }
    }

    /// Records that a part of it was read, to its end or not. Returns the range in which to look up the reader's
    /// positions, and their maximum number, if that is worthwhile: for a record that takes more than one statement.
    pub(super) fn asks(&mut self, stopped_at: Option<i64>, since: i64, before: i64) -> Option<(i64, i64, i64)> {
        self.is_long |= stopped_at.is_some();
        let most = (MAX_POSITIONS + 1).checked_sub(self.found.len()).filter(|most| *most > 0 && self.is_long)?;
        // Positions before `since` are known.
        Some((stopped_at.map_or(since, |at| at.max(since)), before.min(self.until), most as i64))
    }

    /// Adds positions of the reader's writes.
    pub(super) fn found(&mut self, positions: impl Iterator<Item = i64>) {
        self.found.extend(positions);
    }

    /// Caches what is known once all of it has been read, for the next page, which begins at `first` or later.
    pub(super) fn keep(&mut self, often: &OftenWritten, first: i64) {
        if std::mem::take(&mut self.is_long) {
            often.note(self.writer.clone(), self.positions(first));
        }
    }

    /// Returns the position from which it has to be read.
    pub(super) fn since(&self, first: i64) -> i64 {
        self.known.as_ref().map_or(first, |known| known.until.max(first))
    }

    /// Returns the known positions of the reader's writes in a range, which excludes `before`.
    pub(super) fn written(&self, first: i64, before: i64) -> Vec<Micros> {
        let written = self.known.iter().flat_map(|known| known.written.iter().copied());
        written.filter(|at| (first..before).contains(at)).map(Micros).collect()
    }

    /// Returns everything that is known now.
    fn positions(&mut self, first: i64) -> Positions {
        let mut written = std::mem::take(&mut self.found);
        let from = self.known.as_ref().map_or(first, |known| known.from);
        written.extend(self.known.iter().flat_map(|known| known.written.iter()));
        Positions { from, until: self.until, written }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn writer(device: &str) -> Writer {
        Writer::new(LogId(Uuid::nil()), device, ("todos", "a"))
    }

    fn micros(positions: &[Micros]) -> Vec<i64> {
        positions.iter().map(|Micros(at)| *at).collect()
    }

    #[test]
    fn what_was_looked_at_for_one_page_is_not_looked_at_for_the_next() {
        let often = OftenWritten::new();
        let mut first = LongRecord::new(&often, 0, writer("phone"), (100, 900, 1_000));
        assert_eq!((first.since(100), micros(&first.written(100, 900))), (100, vec![]));
        assert_eq!(first.asks(Some(500), 100, 900), Some((500, 900, MAX_POSITIONS as i64 + 1)));
        first.found([600, 800].into_iter());
        assert_eq!(first.asks(None, 100, 500), Some((100, 500, MAX_POSITIONS as i64 - 1)));
        first.found([150].into_iter());
        first.keep(&often, 100);

        let next = LongRecord::new(&often, 0, writer("phone"), (200, 950, 1_100));
        assert_eq!((next.since(200), micros(&next.written(200, 950))), (900, vec![600, 800]));
        let after_it = LongRecord::new(&often, 0, writer("phone"), (1_000, 1_050, 1_100));
        assert_eq!((after_it.since(1_000), micros(&after_it.written(1_000, 1_050))), (1_000, vec![]));
        for (what, other) in [
            ("another device", LongRecord::new(&often, 0, writer("tablet"), (200, 950, 1_100))),
            ("a page before it", LongRecord::new(&often, 0, writer("phone"), (50, 950, 1_100))),
            ("a log that went back", LongRecord::new(&often, 0, writer("phone"), (200, 850, 850))),
        ] {
            assert!(other.known.is_none(), "{what}");
        }
    }

    #[test]
    fn nothing_is_kept_of_a_record_that_takes_one_look_or_that_its_reader_wrote_very_often() {
        let often = OftenWritten::new();
        let mut short = LongRecord::new(&often, 0, writer("phone"), (100, 900, 1_000));
        assert_eq!(short.asks(None, 100, 900), None);
        short.keep(&often, 100);
        let mut own = LongRecord::new(&often, 0, writer("phone"), (100, 900, 1_000));
        assert!(own.asks(Some(500), 100, 900).is_some());
        own.found(0..MAX_POSITIONS as i64 + 1);
        assert_eq!(own.asks(None, 100, 500), None, "no more are asked for");
        own.keep(&often, 100);
        assert!(often.get(&writer("phone"), 100, 1_000).is_none());
    }
}
