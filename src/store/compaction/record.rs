//! The rows of some records: reads them, applies the protocol's trimming rules, and writes those that lost something.

use super::bounds::{BYTES_AT_ONCE, ROWS_AT_ONCE, Wait};
use super::due::LogState;
use super::record_name::RecordName;
use super::write::{Cut, cut, mark_deletes};
use super::{CompactionError, Rules, Trimmed, flaw};
use crate::db::Micros;
use crate::failpoints::Failpoint;
use crate::protocol::LogId;
use crate::protocol::merge::StoredChange;
use crate::protocol::push::Op;
use crate::protocol::trim::{RecordTrim, RowWrites};
use futures_util::TryStreamExt;
use std::collections::HashMap;
use std::pin::pin;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

/// Maximum memory for the names of a record's fields. A record with more is left untrimmed: no real record has so many,
/// and a user who creates one bears the cost alone.
const MAX_WINNERS: usize = 16 << 20;

/// A row with its long values replaced by shorter ones, longer for longer values: enough to tell which fields say
/// least, without sending or holding the values. The members that may carry a stamp are read unchanged.
macro_rules! without_long_values {
    () => {
        "c.id, c.created_at, c.table_name, c.record_id, c.op, c.held is not null as claims,
         c.field_timestamps::text as stamps,
         case when c.size <= 4096 or c.op = 'delete' then c.data::text
             else coalesce((
                 select jsonb_object_agg(d.key, case
                     when octet_length(d.value::text) <= 256 or d.key in ('updatedAt', 'createdAt') then d.value
                     else to_jsonb(repeat('.', 256 + (20 * ln(octet_length(d.value::text)))::int))
                 end) from jsonb_each(c.data) d
             ), c.data)::text
         end as data"
    };
}

/// All rows of some records.
const ALL_ROWS: &str = concat!(
    "select ",
    without_long_values!(),
    " from unnest($2::text[], $3::text[]) as k (table_name, record_id)
     join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
     where c.log_id = $1
     order by c.table_name, c.record_id, c.created_at"
);
/// The next rows of a record after a position, limited in number and in bytes, but at least one.
const NEXT_ROWS: &str = concat!(
    "select ",
    without_long_values!(),
    " from (
         select r.*, sum(r.size) over (order by r.created_at) - r.size as before
         from (
             select s.id, s.created_at, s.table_name, s.record_id, s.op, s.held, s.field_timestamps, s.data, s.size
             from sync_changes s
             where s.log_id = $1 and s.table_name = $2 and s.record_id = $3 and s.created_at > $4
             order by s.created_at limit $5
         ) r
     ) c
     where c.before < $6::int8
     order by c.created_at"
);

/// A row and its record.
struct ReadRow {
    id: Uuid,
    name: RecordName,
    row: RowWrites,
}

/// Decodes a row's change, without its additional members.
pub(in crate::store) fn read_change(row: &Row) -> Result<StoredChange, CompactionError> {
    let Micros(at) = row.try_get("created_at")?;
    let op: &str = row.try_get("op")?;
    Ok(StoredChange {
        id: row.try_get("id")?,
        at,
        table: row.try_get("table_name")?,
        record: row.try_get("record_id")?,
        op: Op::from_name(op).ok_or_else(|| CompactionError::UnknownOp(op.to_owned()))?,
        data: row.try_get("data")?,
        stamps: row.try_get("stamps")?,
        extra: None,
        is_own: false,
        rows_trimmed: false,
    })
}

fn read(row: &Row, horizon: i64) -> Result<ReadRow, CompactionError> {
    let change = read_change(row)?;
    let claims = row.try_get::<_, bool>("claims")? && !Failpoint::TrimsClaims.is_on();
    let row = RowWrites::read(&change, claims || change.at > horizon)?;
    Ok(ReadRow { id: change.id, name: RecordName { table: change.table, record: change.record }, row })
}

/// Trims records that fit in memory, with all their rows, in the open transaction.
pub(super) async fn trim_together(
    connection: &Client,
    log: LogId,
    records: &[RecordName],
    (state, rules): (&LogState, &Rules),
) -> Result<Trimmed, CompactionError> {
    let tables: Vec<&str> = records.iter().map(|name| &*name.table).collect();
    let ids: Vec<&str> = records.iter().map(|name| &*name.record).collect();
    let rows = read_rows(connection, ALL_ROWS, &[&log.0, &tables, &ids], state.horizon).await?;
    let mut trims: HashMap<&RecordName, RecordTrim> = HashMap::new();
    for ReadRow { name, row, .. } in &rows {
        trims.entry(name).or_insert_with(|| RecordTrim::new(flaw())).note(row);
    }
    purge(&mut trims, state);
    let mut cuts: Vec<Cut> = rows.iter().filter_map(|row| Cut::of(row.id, trims.get(&row.name)?, &row.row)).collect();
    if Failpoint::TrimsInTwo.is_on() {
        cuts.drain(..cuts.len() / 2);
    }
    let gone: HashMap<Uuid, &RecordName> = rows.iter().map(|row| (row.id, &row.name)).collect();
    let mut trimmed = cut(connection, &cuts, rules.keeps_history).await?;
    trimmed.seen = rows.len() as u64;
    let lost_rows = cuts.iter().filter(|cut| cut.gone).filter_map(|cut| gone.get(&cut.id).copied());
    let mut marked: Vec<&RecordName> =
        lost_rows.filter(|name| trims.get(name).is_some_and(RecordTrim::marks_deletes)).collect();
    marked.dedup();
    mark_deletes(connection, log, &marked).await?;
    Ok(trimmed)
}

fn purge(trims: &mut HashMap<&RecordName, RecordTrim>, state: &LogState) {
    if let Some(before) = state.purge_before {
        trims.values_mut().for_each(|trim| trim.purge(before.min(state.horizon)));
    }
}

/// Trims a large record in two passes: the first finds out what wins, the second removes the rest, part by part. All in
/// the open transaction, however long that takes; the time limit applies to each step.
pub(super) async fn trim_large(
    connection: &Client,
    log: LogId,
    name: &RecordName,
    (state, rules): (&LogState, &Rules),
    wait: Wait,
) -> Result<Trimmed, CompactionError> {
    let mut trim = RecordTrim::new(flaw());
    let (mut trimmed, mut after) = (Trimmed::default(), 0);
    loop {
        let rows = wait.on(next_rows(connection, log, name, after, state.horizon)).await?;
        rows.iter().for_each(|row| trim.note(&row.row));
        trimmed.seen += rows.len() as u64;
        match rows.last() {
            Some(last) => after = last.row.at,
            None => break,
        }
        if trim.bytes() > MAX_WINNERS {
            tracing::warn!(log = %log.0, "a record has too many fields to be trimmed, and is left as it is");
            return Ok(trimmed);
        }
    }
    if let Some(before) = state.purge_before {
        trim.purge(before.min(state.horizon));
    }
    after = 0;
    loop {
        let rows = wait.on(next_rows(connection, log, name, after, state.horizon)).await?;
        let Some(last) = rows.last() else { break };
        after = last.row.at;
        let cuts: Vec<Cut> = rows.iter().filter_map(|row| Cut::of(row.id, &trim, &row.row)).collect();
        trimmed.add(wait.on(cut(connection, &cuts, rules.keeps_history)).await?);
    }
    if trimmed.gone > 0 && trim.marks_deletes() {
        wait.on(mark_deletes(connection, log, &[name])).await?;
    }
    Ok(trimmed)
}

async fn next_rows(
    connection: &Client,
    log: LogId,
    name: &RecordName,
    after: i64,
    horizon: i64,
) -> Result<Vec<ReadRow>, CompactionError> {
    let after = Micros(after);
    let parameters: [&(dyn ToSql + Sync); 6] =
        [&log.0, &name.table, &name.record, &after, &ROWS_AT_ONCE, &BYTES_AT_ONCE];
    read_rows(connection, NEXT_ROWS, &parameters, horizon).await
}

/// Reads rows one by one: only their names and stamps are kept, so values do not accumulate.
async fn read_rows(
    connection: &Client,
    statement: &str,
    parameters: &[&(dyn ToSql + Sync)],
    horizon: i64,
) -> Result<Vec<ReadRow>, CompactionError> {
    let mut reading = pin!(connection.query_raw(statement, parameters.iter().copied()).await?);
    let mut rows = Vec::new();
    while let Some(row) = reading.try_next().await? {
        rows.push(read(&row, horizon)?);
    }
    Ok(rows)
}
