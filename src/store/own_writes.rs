//! What a reading device itself wrote to the records on a page, where it bears on how they are sent (G3).
//!
//! PostgreSQL tells of each field the best write, whatever their number, and of those fields only that changes on the page
//! write. So what is read is bounded by the page, however many fields its records have.

use super::delta::PageRequest;
use super::pages::Pages;
use super::{StoreError, traced};
use crate::db::{Micros, Sql};
use crate::protocol::json::ObjectWriter;
use crate::protocol::merge::{OwnWrites, Rank, StoredChange, UnreadableChange};
use crate::protocol::page::size_of;
use crate::protocol::push::Op;
use crate::protocol::{LogId, Stamp};
use bytes::{BufMut, BytesMut};
use std::collections::BTreeMap;
use std::error::Error;
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// Whether a text is a stamp as the store writes them, as a regular expression: days that do not exist are none.
macro_rules! stamp_pattern {
    () => {
        "'^(\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))\
         |(\\d\\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)\
         T([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d\\.\\d{3}Z$'"
    };
}

/// The stamp of an insert `c`: that of `updatedAt`, else of `createdAt`, as the store writes them; else the epoch.
macro_rules! insert_stamp {
    () => {
        concat!(
            "case
             when c.data ->> 'updatedAt' ~ ",
            stamp_pattern!(),
            "
             then c.data ->> 'updatedAt'
             when c.data ->> 'createdAt' ~ ",
            stamp_pattern!(),
            "
             then c.data ->> 'createdAt'
             else '1970-01-01T00:00:00.000Z'
         end"
        )
    };
}

/// The fields `f (name, stamp)` that a change `c` writes, of those that are asked for: the members of `c.names`. Without their
/// values, which merging does not need.
macro_rules! fields_of_change {
    ($join:literal) => {
        concat!(
            $join,
            " lateral (
    select s.key as name, s.value as stamp
    from jsonb_each_text(case when c.op <> 'insert' then c.field_timestamps end) as s
    where c.names ? s.key
    union all
    select name, ",
            insert_stamp!(),
            "
    from jsonb_object_keys(case when c.op = 'insert' and jsonb_typeof(c.data) = 'object' then c.data end) as name
    where c.names ? name
) f on true"
        )
    };
}

/// The best write of each field, as the stamp followed by the position in microseconds: of such texts the greatest is best.
macro_rules! best {
    () => {
        "max(f.stamp || lpad((extract(epoch from c.created_at) * 1000000)::int8::text, 18, '0') collate \"C\")"
    };
}

/// What a device wrote to these fields of these records: since a position, and before it where it holds later stamps than are
/// stored. For writes of other fields there is a row without a name, so `last` tells of each record whether and when it was
/// written at all.
static OWN_WRITES: Sql = Sql {
    text: concat!(
        "select c.table_name, c.record_id, f.name, ",
        best!(),
        " as best, max(c.held ->> f.name collate \"C\") as held, max(c.created_at) as last
from (
    select c.*, k.names from unnest($3::text[], $4::text[], $6::jsonb[]) as k (table_name, record_id, names)
    join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
    where c.log_id = $1 and c.client_id = $2 and c.created_at >= $5
    union all
    select c.*, k.names from unnest($3::text[], $4::text[], $6::jsonb[]) as k (table_name, record_id, names)
    join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
    where c.log_id = $1 and c.client_id = $2 and c.created_at < $5 and c.held is not null
) c ",
        fields_of_change!("left join"),
        "
group by c.table_name, c.record_id, f.name"
    ),
    types: &[Type::UUID, Type::TEXT, Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::TIMESTAMPTZ, Type::JSONB_ARRAY],
};

/// What was written to these fields of these records before a position.
static HISTORY: Sql = Sql {
    text: concat!(
        "select c.table_name, c.record_id, f.name, ",
        best!(),
        " as best
from (
    select c.*, k.names from unnest($2::text[], $3::text[], $5::jsonb[]) as k (table_name, record_id, names)
    join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
    where c.log_id = $1 and c.created_at < $4
) c ",
        fields_of_change!("join"),
        "
group by c.table_name, c.record_id, f.name"
    ),
    types: &[Type::UUID, Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::TIMESTAMPTZ, Type::JSONB_ARRAY],
};

/// The statements here, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![("own writes", &OWN_WRITES), ("history", &HISTORY)]
}

/// What a row costs to take in, as bytes of [`HeavyWork`](crate::limits::heavy::HeavyWork).
const ROW_WORK: usize = 128;

impl Pages {
    /// What the reader itself wrote to the records of these changes, as far as it bears on how they are sent.
    /// `reader_holds`: whether it holds later stamps than are stored, anywhere in the log.
    pub(super) async fn own_writes(
        &self,
        log: LogId,
        request: &PageRequest<'_>,
        changes: &[StoredChange],
        reader_holds: bool,
    ) -> Result<OwnWrites, StoreError> {
        let mut own = OwnWrites::new(request.own.is_initial_sync());
        let (Some(reader), Some(first)) = (request.reader, changes.first()) else { return Ok(own) };
        // On an initial sync what others wrote comes in its place among what the device wrote: only its own changes, and
        // what a delete may leave without a record, have to be looked at.
        let concerned = |change: &&StoredChange| match request.own.is_initial_sync() {
            true => reader_holds || change.is_own || change.op == Op::Delete || request.own.is_answer(),
            false => true,
        };
        let bytes = size_of(changes);
        let fields = self.heavy.run(bytes, || Fields::of_changes(changes.iter().filter(concerned))).await?;
        if fields.records.is_empty() {
            return Ok(own);
        }
        let (tables, ids) = fields.records();
        let parameters: [&(dyn ToSql + Sync); 6] = [&log.0, &reader, &tables, &ids, &Micros(first.at), &fields.names];
        let rows = self.traced(traced::OWN_WRITES, &OWN_WRITES, &parameters).await?;
        self.heavy.run(rows.len() * ROW_WORK, || add_own_rows(&mut own, &rows)).await?;
        drop(rows);
        self.add_history(log, first.at, &mut own).await?;
        Ok(own)
    }

    async fn add_history(&self, log: LogId, before: i64, own: &mut OwnWrites) -> Result<(), StoreError> {
        let rows = {
            let fields = Fields::of_records(own.needs_history());
            if fields.records.is_empty() {
                return Ok(());
            }
            let (tables, ids) = fields.records();
            let parameters: [&(dyn ToSql + Sync); 5] = [&log.0, &tables, &ids, &Micros(before), &fields.names];
            self.traced(traced::HISTORY, &HISTORY, &parameters).await?
        };
        self.heavy.run(rows.len() * ROW_WORK, || add_earlier_rows(own, &rows)).await
    }
}

/// Fields of records, to be asked for.
struct Fields<'a> {
    records: Vec<(&'a str, &'a str)>,
    /// Of each record, as members of an object: so PostgreSQL finds one among many quickly.
    names: Vec<Jsonb>,
}

impl<'a> Fields<'a> {
    /// Those that changes write.
    fn of_changes(changes: impl Iterator<Item = &'a StoredChange>) -> Result<Fields<'a>, UnreadableChange> {
        let mut records: BTreeMap<(&str, &str), ObjectWriter> = BTreeMap::new();
        for change in changes {
            let names = records.entry((&change.table, &change.record)).or_default();
            change.field_names()?.iter().for_each(|name| names.raw(name, "0"));
        }
        let (records, names) = records.into_iter().map(|(record, names)| (record, Jsonb(names.finish()))).unzip();
        Ok(Fields { records, names })
    }

    fn of_records(records: Vec<((&'a str, &'a str), Vec<&'a str>)>) -> Fields<'a> {
        let object = |fields: Vec<&str>| {
            let mut names = ObjectWriter::new();
            fields.iter().for_each(|name| names.raw(name, "0"));
            Jsonb(names.finish())
        };
        let (records, names) = records.into_iter().map(|(record, fields)| (record, object(fields))).unzip();
        Fields { records, names }
    }

    /// Their tables and ids.
    fn records(&self) -> (Vec<&'a str>, Vec<&'a str>) {
        self.records.iter().copied().unzip()
    }
}

/// A JSON text, sent as `jsonb`.
#[derive(Debug)]
struct Jsonb(String);

impl ToSql for Jsonb {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        // The version of its form: text.
        out.put_u8(1);
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::JSONB
    }

    to_sql_checked!();
}

fn add_own_rows(own: &mut OwnWrites, rows: &[Row]) -> Result<(), StoreError> {
    for row in rows {
        let record = (row.try_get(0)?, row.try_get(1)?);
        let Micros(last) = row.try_get(5)?;
        own.add_record(record, last);
        let Some(best) = best(row)? else { continue };
        let held: Option<&str> = row.try_get(4)?;
        let held = held.and_then(|held| Stamp::parse(held).ok());
        own.add_own(record, row.try_get(2)?, best, held);
    }
    Ok(())
}

fn add_earlier_rows(own: &mut OwnWrites, rows: &[Row]) -> Result<(), StoreError> {
    for row in rows {
        let Some(best) = best(row)? else { continue };
        own.add_earlier((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?, best);
    }
    Ok(())
}

/// Reads the best write of a row's field; none if it has no field, or a stamp that cannot be read.
fn best(row: &Row) -> Result<Option<Rank>, StoreError> {
    let best: Option<&str> = row.try_get(3)?;
    let Some((stamp, position)) = best.and_then(|best| best.split_at_checked(Stamp::WIDTH)) else { return Ok(None) };
    Ok(Stamp::parse(stamp).ok().zip(position.parse().ok()))
}
