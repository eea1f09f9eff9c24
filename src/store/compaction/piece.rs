//! One piece of a log's trimming: the records of the next few rows, with all rows of these records. Bounded in rows and
//! in bytes, and therefore in time and memory; a record larger than the bounds is a piece of its own.

use super::bounds::{BYTES_AT_ONCE, ROWS_AT_ONCE, Wait};
use super::due::{self, LogState};
use super::record;
use super::record_name::RecordName;
use super::{CompactionError, Rules, Trimmed};
use crate::db::Micros;
use crate::protocol::LogId;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use tokio_postgres::Client;

/// Number of rows scanned for the next records.
const ROWS: i64 = 500;
/// Maximum number of records remembered as done. Any others are examined once in each piece that has a row of them.
const DONE: usize = 200_000;

/// The records of the next rows between two positions, ordered by their first row there.
macro_rules! next_records {
    ($where:literal) => {
        concat!(
            "
with next as materialized (
    select table_name, record_id, created_at from sync_changes
    where log_id = $1 and created_at > $2 and created_at <= $3",
            $where,
            " order by created_at limit $4
)
select table_name, record_id, min(created_at) as first, max(created_at) as last, count(*) as count
from next group by table_name, record_id order by first"
        )
    };
}

const NEXT: &str = next_records!("");
/// The same for records deleted in that range.
const NEXT_DELETED: &str = next_records!(" and (op = 'delete' or data ? 'deletedAt')");

/// The number of rows and bytes of records, counted only as far as it matters, and the position of their first row.
const SIZES: &str = "
select s.rows, s.bytes, s.first
from unnest($2::text[], $3::text[]) with ordinality as k (table_name, record_id, place)
cross join lateral (
    select count(*) as rows, coalesce(sum(r.size), 0)::int8 as bytes, min(r.created_at) as first
    from (
        select c.size, c.created_at from sync_changes c
        where c.log_id = $1 and c.table_name = k.table_name and c.record_id = k.record_id
        order by c.created_at limit $4
    ) r
) s
order by k.place";

/// The rows that a piece starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// All rows, from the log's trimmed position.
    All,
    /// Rows that write `deletedAt`.
    Deletes,
}

/// A range of a log, trimmed piece by piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) rows: Rows,
    pub(super) after: i64,
    pub(super) until: i64,
}

/// The outcome of a piece.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece {
    /// Another session is removing rows from this log.
    Busy,
    /// The piece was trimmed from its first row to this position; the range may contain more.
    Trimmed { trimmed: Trimmed, first: i64, end: i64 },
}

/// The records that this pass over a log is done with; their remaining rows need not be examined again. Kept as hashes:
/// if two records collide, one of them is not trimmed until it is written again.
#[derive(Debug, Default)]
pub(super) struct Done {
    records: HashSet<u64>,
    hasher: RandomState,
}

impl Done {
    fn has(&self, name: &RecordName) -> bool {
        self.records.contains(&self.hasher.hash_one(name))
    }

    fn note(&mut self, name: &RecordName) {
        if self.records.len() < DONE {
            self.records.insert(self.hasher.hash_one(name));
        }
    }
}

/// Begins a transaction that may remove rows from a log; false, with none begun, if another session does.
pub(super) async fn begin(connection: &Client, log: LogId, wait: Wait) -> Result<bool, CompactionError> {
    // The removed rows are not erased but kept in the history, so the trigger need not search for them.
    connection.batch_execute("begin; set local mana_sync.trimming = on").await?;
    let locked = match wait {
        Wait::No => {
            let lock = "select pg_try_advisory_xact_lock(sync_trim_lock($1))";
            connection.query_one(lock, &[&log.0]).await?.try_get(0)?
        }
        Wait::Yes => {
            connection.execute("select pg_advisory_xact_lock(sync_trim_lock($1))", &[&log.0]).await?;
            true
        }
    };
    if !locked {
        connection.batch_execute("rollback").await?;
    }
    Ok(locked)
}

/// Commits together with one more statement, in the same round trip: it may lock the log's head, which pushes wait for.
pub(super) async fn commit_with(connection: &Client, statement: String) -> Result<(), CompactionError> {
    Ok(connection.batch_execute(&format!("{statement}; commit")).await?)
}

/// Trims the next piece of a range, in its own transaction.
pub(super) async fn trim_next(
    connection: &Client,
    log: LogId,
    (state, range, rules): (&LogState, Range, &Rules),
    done: &mut Done,
    wait: Wait,
) -> Result<Piece, CompactionError> {
    if !wait.on(begin(connection, log, wait)).await? {
        return Ok(Piece::Busy);
    }
    let next = wait.on(next(connection, log, range, state.horizon, done)).await?;
    let trimmed = match next.records {
        Records::None => Trimmed::default(),
        Records::Together(ref names) => wait.on(record::trim_together(connection, log, names, (state, rules))).await?,
        Records::Large(ref name) => record::trim_large(connection, log, name, (state, rules), wait).await?,
    };
    let statement = match range.rows {
        Rows::All => due::advance(log, next.end.min(state.horizon), state.horizon),
        Rows::Deletes => String::new(),
    };
    wait.on(commit_with(connection, statement)).await?;
    next.seen.iter().for_each(|name| done.note(name));
    Ok(Piece::Trimmed { trimmed, first: next.first, end: next.end })
}

/// The contents of the next piece.
struct Next {
    records: Records,
    /// Those records, and others that have nothing old enough.
    seen: Vec<RecordName>,
    /// The position of its first row, and the position up to which all rows belong to records that are done.
    first: i64,
    end: i64,
}

#[derive(Debug, PartialEq, Eq)]
enum Records {
    None,
    Together(Vec<RecordName>),
    /// A record that is read in parts.
    Large(RecordName),
}

/// A record among the next rows.
#[derive(Debug)]
struct Candidate {
    name: RecordName,
    /// The position of its first row among them.
    at: i64,
    rows: i64,
    bytes: i64,
    /// True if any of its rows is old enough.
    is_old: bool,
}

async fn next(
    connection: &Client,
    log: LogId,
    range: Range,
    horizon: i64,
    done: &Done,
) -> Result<Next, CompactionError> {
    let statement = match range.rows {
        Rows::All => NEXT,
        Rows::Deletes => NEXT_DELETED,
    };
    let rows = connection.query(statement, &[&log.0, &Micros(range.after), &Micros(range.until), &ROWS]).await?;
    let (mut names, mut count, mut last, mut first) = (Vec::new(), 0, range.after, range.until);
    for row in rows {
        let (Micros(begins), Micros(ends)) = (row.try_get("first")?, row.try_get("last")?);
        (first, last) = (first.min(begins), last.max(ends));
        count += row.try_get::<_, i64>("count")?;
        let name = RecordName { table: row.try_get("table_name")?, record: row.try_get("record_id")? };
        if !done.has(&name) {
            names.push((name, begins));
        }
    }
    let end = if count == ROWS { last } else { range.until };
    let candidates = sizes(connection, log, names, horizon).await?;
    let (records, seen, left) = choose(candidates);
    // If records are left for the next piece, this one ends before the first of them.
    Ok(Next { records, seen, first, end: left.map_or(end, |first_left| first_left - 1) })
}

async fn sizes(
    connection: &Client,
    log: LogId,
    names: Vec<(RecordName, i64)>,
    horizon: i64,
) -> Result<Vec<Candidate>, CompactionError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let tables: Vec<&str> = names.iter().map(|(name, _)| &*name.table).collect();
    let ids: Vec<&str> = names.iter().map(|(name, _)| &*name.record).collect();
    let rows = connection.query(SIZES, &[&log.0, &tables, &ids, &(ROWS_AT_ONCE + 1)]).await?;
    let mut candidates = Vec::with_capacity(rows.len());
    for ((name, at), row) in names.into_iter().zip(&rows) {
        let first: Option<Micros> = row.try_get("first")?;
        let is_old = first.is_some_and(|Micros(first)| first <= horizon);
        candidates.push(Candidate { name, at, rows: row.try_get("rows")?, bytes: row.try_get("bytes")?, is_old });
    }
    Ok(candidates)
}

/// From records in order, chooses those to trim together. Also returns the records that are done after that, and where
/// the first of the others starts.
fn choose(candidates: Vec<Candidate>) -> (Records, Vec<RecordName>, Option<i64>) {
    let (mut together, mut seen) = (Vec::new(), Vec::new());
    let (mut rows, mut bytes) = (0, 0);
    for candidate in candidates {
        let Candidate { name, at, is_old, .. } = candidate;
        if is_old {
            rows += candidate.rows;
            bytes += candidate.bytes;
            let fits = rows <= ROWS_AT_ONCE && bytes <= BYTES_AT_ONCE;
            match (fits, together.is_empty()) {
                (true, _) => together.push(name.clone()),
                (false, true) => {
                    seen.push(name.clone());
                    return (Records::Large(name), seen, Some(at + 1));
                }
                (false, false) => return (Records::Together(together), seen, Some(at)),
            }
        }
        seen.push(name);
    }
    let records = if together.is_empty() { Records::None } else { Records::Together(together) };
    (records, seen, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate((n, (rows, bytes)): (usize, (i64, i64))) -> Candidate {
        let name = RecordName { table: "t".into(), record: n.to_string() };
        Candidate { name, at: n as i64 * 20, rows, bytes, is_old: rows > 0 }
    }

    fn chosen(sizes: &[(i64, i64)]) -> (usize, bool, usize, Option<i64>) {
        let (records, seen, left) = choose(sizes.iter().copied().enumerate().map(candidate).collect());
        let (count, is_large) = match records {
            Records::None => (0, false),
            Records::Together(names) => (names.len(), false),
            Records::Large(_) => (1, true),
        };
        (count, is_large, seen.len(), left)
    }

    #[test]
    fn a_piece_has_some_rows_and_bytes_and_a_large_record_is_one_alone() {
        assert_eq!(chosen(&[]), (0, false, 0, None));
        assert_eq!(chosen(&[(1, 9), (ROWS_AT_ONCE - 1, 9)]), (2, false, 2, None));
        assert_eq!(chosen(&[(1, 9), (ROWS_AT_ONCE, 9), (1, 9)]), (1, false, 1, Some(20)));
        assert_eq!(chosen(&[(1, BYTES_AT_ONCE), (1, 1)]), (1, false, 1, Some(20)));
        assert_eq!(chosen(&[(1, BYTES_AT_ONCE + 1), (1, 1)]), (1, true, 1, Some(1)));
        assert_eq!(chosen(&[(ROWS_AT_ONCE + 1, 1), (1, 1)]), (1, true, 1, Some(1)));
        // Rows that are not old enough are not read.
        assert_eq!(chosen(&[(0, 0), (5, 5), (0, 0)]), (1, false, 3, None));
        assert_eq!(chosen(&[(0, 0), (ROWS_AT_ONCE + 1, 5), (0, 0)]), (1, true, 2, Some(21)));
    }
}
