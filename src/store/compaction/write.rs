//! Taking out what lost: into the history, out of the log.

use super::record::RecordName;
use super::{CompactionError, Trimmed};
use crate::protocol::LogId;
use crate::protocol::json::ObjectWriter;
use crate::protocol::trim::{LostField, RecordTrim, RowWrites, Verdict};
use tokio_postgres::Client;
use uuid::Uuid;

/// What a row loses.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) id: Uuid,
    /// The fields, with their stamps, as a JSON object.
    lost: String,
    /// Whether nothing of it is left.
    pub(super) gone: bool,
}

impl Cut {
    /// What a row loses by the rules; none if it stays whole.
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

/// `$1`–`$3`: rows, what they lose, whether they go; `$4`: whether it is kept in the history.
const CUT: &str = "
with cut as materialized (
    select c.id, c.log_id, c.table_name, c.record_id, c.created_at, c.client_id, c.op, c.data, c.extra, c.size,
           u.lost::jsonb as lost, u.gone, array(select jsonb_object_keys(u.lost::jsonb)) as fields
    from unnest($1::uuid[], $2::text[], $3::bool[]) as u (id, lost, gone)
    join sync_changes c on c.id = u.id
), kept as (
    insert into sync_history (trimmed_at, log_id, table_name, record_id, id, created_at, client_id, op, data,
                              field_timestamps, extra)
    select now(), log_id, table_name, record_id, id, created_at, client_id, op,
           case op when 'delete' then lost
               else (select coalesce(jsonb_object_agg(d.key, d.value), '{}') from jsonb_each(cut.data) d where d.key = any(cut.fields))
           end, lost, extra
    from cut where $4::bool
), shrunk as (
    update sync_changes c
    set data = c.data - cut.fields, field_timestamps = c.field_timestamps - cut.fields,
        size = sync_size(c.data - cut.fields, c.field_timestamps - cut.fields, c.extra)
    from cut where c.id = cut.id and not cut.gone
    returning cut.size - c.size as bytes
), removed as (
    delete from sync_changes c using cut where c.id = cut.id and cut.gone
    returning cut.size as bytes
)
select (select count(*) from shrunk) + (select count(*) from removed) as rows,
       (select count(*) from removed) as gone,
       coalesce((select sum(bytes) from shrunk), 0)::int8 + coalesce((select sum(bytes) from removed), 0)::int8 as bytes";

/// Deletes of records whose rows have gone.
const MARK_DELETES: &str = "
update sync_changes c set rows_trimmed = true
from unnest($2::text[], $3::text[]) as k (table_name, record_id)
where c.log_id = $1 and c.table_name = k.table_name and c.record_id = k.record_id
    and c.op = 'delete' and c.rows_trimmed is null";

/// Takes out of rows what they lose.
pub(super) async fn cut(connection: &Client, cuts: &[Cut], keeps_history: bool) -> Result<Trimmed, CompactionError> {
    if cuts.is_empty() {
        return Ok(Trimmed::default());
    }
    let ids: Vec<Uuid> = cuts.iter().map(|cut| cut.id).collect();
    let lost: Vec<&str> = cuts.iter().map(|cut| cut.lost.as_str()).collect();
    let gone: Vec<bool> = cuts.iter().map(|cut| cut.gone).collect();
    let row = connection.query_one(CUT, &[&ids, &lost, &gone, &keeps_history]).await?;
    let number =
        |column: &str| Ok::<_, tokio_postgres::Error>(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0));
    Ok(Trimmed { seen: 0, rows: number("rows")?, gone: number("gone")?, bytes: number("bytes")? })
}

/// Marks the deletes that are left of records of which rows have gone.
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
