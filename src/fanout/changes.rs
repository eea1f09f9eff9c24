//! Looks up what changed in ranges of logs, for wake-ups, one bounded part at a time (G6).

use super::tables::Tables;
use crate::store::{ChangedTable, HeadReader, LogRange, RangeChanges, StoreError};
use crate::telemetry::Metrics;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Maximum number of ranges looked up in one statement.
pub(super) const RANGES_PER_QUERY: usize = 500;
/// Approximate maximum of bytes of names announced at once. What comes after them is announced next.
pub(super) const MAX_NAMES: usize = 64 << 10;

/// The changes in a range, or in the first part of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changed {
    /// The tables that each device changed.
    pub(super) by_client: Vec<(Arc<str>, Tables)>,
    /// The position up to which they go: the end of the range, if nothing is left.
    pub(super) until: i64,
    /// Size of the names in bytes.
    pub(super) bytes: usize,
}

/// Looks up what changed in these ranges, of which there may be at most [`RANGES_PER_QUERY`].
pub(super) async fn look_up(heads: &HeadReader, ranges: &[LogRange]) -> Result<Vec<Changed>, StoreError> {
    Ok(heads.changed_tables(ranges).await?.into_iter().map(cut).collect())
}

/// Cuts off what exceeds the bound for one announcement.
fn cut(RangeChanges { mut tables, mut until }: RangeChanges) -> Changed {
    let mut bytes = 0;
    // Changes at one position are announced together, so that every part makes progress.
    let first = tables.first().map_or(0, |table| table.first);
    let end = tables.iter().position(|table| {
        bytes += table.table.len();
        bytes > MAX_NAMES && table.first > first
    });
    if let Some(end) = end {
        bytes -= tables[end].table.len();
        until = tables[end].first - 1;
        tables.truncate(end);
    }
    let mut by_client: BTreeMap<String, Vec<Arc<str>>> = BTreeMap::new();
    for ChangedTable { table, client, .. } in tables {
        by_client.entry(client).or_default().push(table.into());
    }
    Changed {
        by_client: by_client.into_iter().map(|(client, tables)| (client.into(), tables.into())).collect(),
        until,
        bytes,
    }
}

/// Splits items into chunks. A chunk that fails on its own does not end the others: it is halved and retried last.
pub(super) struct Chunks<'a, T> {
    left: VecDeque<&'a [T]>,
    metrics: &'a Metrics,
}

impl<'a, T> Chunks<'a, T> {
    pub(super) fn new(items: &'a [T], size: usize, metrics: &'a Metrics) -> Chunks<'a, T> {
        Chunks { left: items.chunks(size).collect(), metrics }
    }

    pub(super) fn next(&mut self) -> Option<&'a [T]> {
        self.left.pop_front()
    }

    /// Reports that a chunk has failed.
    ///
    /// # Errors
    /// The error would affect all other chunks too.
    pub(super) fn failed(&mut self, chunk: &'a [T], error: StoreError) -> Result<(), StoreError> {
        if !error.is_about_statement() {
            return Err(error);
        }
        if chunk.len() > 1 {
            let (first, second) = chunk.split_at(chunk.len() / 2);
            self.left.extend([first, second]);
        } else {
            self.metrics.reconcile_failures.inc();
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot look up what was stored for a user; trying again");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::DbError;

    fn table(name: String, client: &str, first: i64) -> ChangedTable {
        ChangedTable { table: name, client: client.to_owned(), first }
    }

    #[test]
    fn so_many_names_are_told_at_once_and_the_rest_from_there_on() {
        let name = |n: i64| format!("{n:0>100}");
        let all: Vec<ChangedTable> = (1..=2_000).map(|n| table(name(n), ["a", "b"][n as usize % 2], n * 20)).collect();
        let (mut after, mut parts, mut found) = (0, 0, Vec::new());
        while after < 50_000 {
            let tables = all.iter().filter(|table| table.first > after).cloned().collect();
            let part = cut(RangeChanges { tables, until: 50_000 });
            assert!(part.bytes <= MAX_NAMES && part.until > after);
            found.extend(part.by_client.iter().flat_map(|(_, tables)| tables.iter().map(|table| table.to_string())));
            after = part.until;
            parts += 1;
        }
        found.sort_unstable();
        assert_eq!((parts, found), (4, (1..=2_000).map(name).collect()));
        assert_eq!(cut(RangeChanges { tables: vec![], until: 7 }), Changed { by_client: vec![], until: 7, bytes: 0 });
    }

    #[test]
    fn what_stands_at_one_position_is_told_at_once() {
        let erased: Vec<ChangedTable> = (0..1_000).map(|n| table(format!("{n:0>100}"), "", 40)).collect();
        let part = cut(RangeChanges { tables: erased.clone(), until: 60 });
        assert_eq!((part.by_client[0].1.len(), part.until), (1_000, 60));
        let after_another = [vec![table("t".repeat(100), "a", 20)], erased].concat();
        assert_eq!(cut(RangeChanges { tables: after_another, until: 60 }).until, 39);
    }

    #[test]
    fn a_chunk_that_fails_by_itself_is_halved_and_asked_last() {
        let (items, metrics): (Vec<u32>, _) = ((0..10).collect(), Metrics::new());
        let mut chunks = Chunks::new(&items, 4, &metrics);
        let mut asked: Vec<u32> = Vec::new();
        while let Some(chunk) = chunks.next() {
            if chunk.contains(&2) {
                chunks.failed(chunk, StoreError::Failed(DbError::Overdue)).unwrap();
            } else {
                asked.extend(chunk);
            }
        }
        assert_eq!(asked, [4, 5, 6, 7, 8, 9, 0, 1, 3]);
        assert_eq!(metrics.reconcile_failures.get(), 1);
        let away = StoreError::Unavailable(DbError::Closed.into());
        assert!(chunks.failed(&items, away).is_err(), "all others would fail as well");
    }
}
