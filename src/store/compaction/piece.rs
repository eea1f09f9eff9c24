//! One piece of a log's trimming: the next rows, the records that they belong to, and all rows of these.

use super::due::{self, LogState};
use super::record::{self, RecordName};
use super::{CompactionError, Rules, Trimmed};
use crate::db::Micros;
use crate::protocol::LogId;
use tokio_postgres::Client;

/// Rows whose records one piece trims.
const ROWS: i64 = 500;
/// Rows of these records that are trimmed at once; a record that has more is read in parts.
const ROWS_AT_ONCE: i64 = 2_000;

/// The records of the next rows after a position, up to another, and how many rows they have.
const NEXT: &str = "
with next as materialized (
    select table_name, record_id, created_at from sync_changes
    where log_id = $1 and created_at > $2 and created_at <= $3 order by created_at limit $4
)
select n.table_name, n.record_id, n.last, n.count,
       (select count(*) from sync_changes c
        where c.log_id = $1 and c.table_name = n.table_name and c.record_id = n.record_id) as rows
from (select table_name, record_id, max(created_at) as last, count(*) as count from next group by table_name, record_id) n";

/// The same of records that were deleted there.
const NEXT_DELETED: &str = "
with next as materialized (
    select table_name, record_id, created_at from sync_changes
    where log_id = $1 and created_at > $2 and created_at <= $3 and (op = 'delete' or data ? 'deletedAt')
    order by created_at limit $4
)
select n.table_name, n.record_id, n.last, n.count,
       (select count(*) from sync_changes c
        where c.log_id = $1 and c.table_name = n.table_name and c.record_id = n.record_id) as rows
from (select table_name, record_id, max(created_at) as last, count(*) as count from next group by table_name, record_id) n";

/// Which rows a piece begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// All, from where the log is trimmed to.
    All,
    /// Those that write `deletedAt`.
    Deletes,
}

/// A range of a log, which is trimmed piece by piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) rows: Rows,
    pub(super) after: i64,
    pub(super) until: i64,
}

/// How a piece ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece {
    /// Somebody else takes rows out of this log.
    Busy,
    /// There is more after this position.
    More(Trimmed, i64),
    /// It was the last.
    Last(Trimmed),
}

/// Whether to wait while somebody else takes rows out of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Yes,
    No,
}

/// Begins a transaction that may take rows out of a log; false, and none begun, if somebody else does.
pub(super) async fn begin(connection: &Client, log: LogId, wait: Wait) -> Result<bool, CompactionError> {
    // What goes is not erased, but kept in the history: the trigger need not look for it.
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

/// Commits, with one statement more in the same round trip: it may take the log's head, for which pushes wait.
pub(super) async fn commit_with(connection: &Client, statement: String) -> Result<(), CompactionError> {
    Ok(connection.batch_execute(&format!("{statement}; commit")).await?)
}

/// Trims the next piece of a range, in a transaction of its own.
pub(super) async fn trim_next(
    connection: &Client,
    log: LogId,
    (state, range, rules): (&LogState, Range, &Rules),
    wait: Wait,
) -> Result<Piece, CompactionError> {
    if !begin(connection, log, wait).await? {
        return Ok(Piece::Busy);
    }
    let next = next(connection, log, range).await?;
    let mut trimmed = Trimmed::default();
    for records in next.records.chunk_by_rows() {
        trimmed.add(record::trim(connection, log, records, (state, rules)).await?);
    }
    let end = next.end.unwrap_or(range.until);
    let statement = match range.rows {
        Rows::All => due::advance(log, end.min(state.horizon)),
        Rows::Deletes => String::new(),
    };
    commit_with(connection, statement).await?;
    Ok(match next.end {
        Some(end) => Piece::More(trimmed, end),
        None => Piece::Last(trimmed),
    })
}

/// The records of a piece.
struct Next {
    records: Records,
    /// The position of its last row; none if it is the range's last piece.
    end: Option<i64>,
}

/// Records with how many rows they have.
struct Records(Vec<(RecordName, i64)>);

impl Records {
    /// The records in groups that are trimmed at once.
    fn chunk_by_rows(&self) -> impl Iterator<Item = &[(RecordName, i64)]> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let mut rows = 0;
            let fits = |(_, count): &&(RecordName, i64)| {
                rows += count;
                rows <= ROWS_AT_ONCE
            };
            let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
            let (group, others) = rest.split_at(count);
            rest = others;
            (!group.is_empty()).then_some(group)
        })
    }
}

async fn next(connection: &Client, log: LogId, range: Range) -> Result<Next, CompactionError> {
    let statement = match range.rows {
        Rows::All => NEXT,
        Rows::Deletes => NEXT_DELETED,
    };
    let rows = connection.query(statement, &[&log.0, &Micros(range.after), &Micros(range.until), &ROWS]).await?;
    let (mut records, mut count, mut end) = (Vec::new(), 0, range.after);
    for row in rows {
        let Micros(last) = row.try_get("last")?;
        end = end.max(last);
        count += row.try_get::<_, i64>("count")?;
        let name = RecordName { table: row.try_get("table_name")?, record: row.try_get("record_id")? };
        records.push((name, row.try_get("rows")?));
    }
    Ok(Next { records: Records(records), end: (count == ROWS).then_some(end) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_trimmed_in_groups_of_some_rows_and_large_ones_alone() {
        let rows = [1, ROWS_AT_ONCE - 1, 1, 5 * ROWS_AT_ONCE, 7];
        let name = RecordName { table: "t".into(), record: "r".into() };
        let records = Records(rows.map(|count| (name.clone(), count)).to_vec());
        let groups: Vec<usize> = records.chunk_by_rows().map(<[_]>::len).collect();
        assert_eq!(groups, [2, 1, 1, 1]);
    }
}
