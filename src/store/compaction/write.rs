//! Moving what lost out of the log and into the history.

use super::record_name::RecordName;
use super::{CompactionError, Trimmed};
use crate::failpoints::Failpoint;
use crate::protocol::LogId;
use crate::protocol::json::ObjectWriter;
use crate::protocol::trim::{LostField, RecordTrim, RowWrites, Verdict};
use tokio_postgres::Client;
use uuid::Uuid;

/// What a row loses.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) id: Uuid,
    /// The lost fields with their stamps, as a JSON object.
    lost: String,
    /// True if nothing is left of the row.
    pub(super) gone: bool,
}

impl Cut {
    /// Returns what a row loses under the rules; `None` if it stays whole.
    pub(super) fn of(id: Uuid, trim: &RecordTrim, row: &RowWrites) -> Option<Cut> {
        let (lost, gone) = match trim.verdict(row) {
            Verdict::Whole => return None,
            Verdict::Without(lost) => (lost, false),
            Verdict::Gone(lost) => (lost, true),
        };
        Some(Cut { id, lost: stamps(&lost), gone })
    }
}

fn stamps(lost: &[LostField<'_>]) -> String {
    let mut object = ObjectWriter::new();
    lost.iter().for_each(|(field, stamp)| object.plain(field, stamp));
    object.finish()
}

/// `$1`–`$3`: rows, what they lose, whether they are removed; `$4`: whether to keep it in the history. These are
/// functions because they need rights that the replicas' role lacks: migration 12.
const CUT: &str = "select rows, gone, bytes from sync_trim_rows($1, $2, $3, $4)";

/// Marks deletes of records that lost rows.
const MARK_DELETES: &str = "select sync_mark_trimmed($1, $2, $3)";

/// See [`Failpoint::TrimMovesFields`].
const MOVE: &str = "
update sync_changes c set created_at = (
    select max(b.created_at) + interval '1 microsecond' from sync_changes b
    where b.log_id = c.log_id and b.table_name = c.table_name and b.record_id = c.record_id and b.created_at < c.created_at
)
where c.id = any($1)";

/// Removes from rows what they lose.
pub(super) async fn cut(connection: &Client, cuts: &[Cut], keeps_history: bool) -> Result<Trimmed, CompactionError> {
    if cuts.is_empty() {
        return Ok(Trimmed::default());
    }
    let ids: Vec<Uuid> = cuts.iter().map(|cut| cut.id).collect();
    let lost: Vec<&str> = cuts.iter().map(|cut| cut.lost.as_str()).collect();
    let gone: Vec<bool> = cuts.iter().map(|cut| cut.gone).collect();
    let row = connection.query_one(CUT, &[&ids, &lost, &gone, &keeps_history]).await?;
    if Failpoint::TrimMovesFields.is_on() {
        let shrunk: Vec<Uuid> = cuts.iter().filter(|cut| !cut.gone).map(|cut| cut.id).collect();
        connection.execute(MOVE, &[&shrunk]).await?;
    }
    let number =
        |column: &str| Ok::<_, tokio_postgres::Error>(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0));
    Ok(Trimmed { seen: 0, rows: number("rows")?, gone: number("gone")?, bytes: number("bytes")? })
}

/// Marks the remaining deletes of records that lost rows.
pub(super) async fn mark_deletes(
    connection: &Client,
    log: LogId,
    records: &[&RecordName],
) -> Result<(), CompactionError> {
    if records.is_empty() {
        return Ok(());
    }
    let tables: Vec<&str> = records.iter().map(|name| &*name.table).collect();
    let ids: Vec<&str> = records.iter().map(|name| &*name.record).collect();
    connection.execute(MARK_DELETES, &[&log.0, &tables, &ids]).await?;
    Ok(())
}
