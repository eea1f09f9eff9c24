//! What a reading device itself wrote to the records on a page, where it bears on how they are sent (G3).
//!
//! PostgreSQL tells of each field the best write, whatever their number, so what is read is bounded by the page's records.

use super::delta::PageRequest;
use super::{Store, StoreError, traced};
use crate::db::{Micros, Sql};
use crate::protocol::merge::{OwnWrites, Rank, StoredChange};
use crate::protocol::push::Op;
use crate::protocol::{LogId, Stamp};
use std::collections::BTreeSet;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

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

/// The fields `f (name, stamp)` that a change `c` writes, without their values, which merging does not need.
macro_rules! fields_of_change {
    () => {
        concat!(
            "cross join lateral (
    select s.key as name, s.value as stamp
    from jsonb_each_text(case when c.op <> 'insert' then c.field_timestamps end) as s
    union all
    select name, ",
            insert_stamp!(),
            "
    from jsonb_object_keys(case when c.op = 'insert' and jsonb_typeof(c.data) = 'object' then c.data end) as name
) f"
        )
    };
}

/// The best write of each field, as the stamp followed by the position in microseconds: of such texts the greatest is best.
macro_rules! best {
    () => {
        "max(f.stamp || lpad((extract(epoch from c.created_at) * 1000000)::int8::text, 18, '0') collate \"C\")"
    };
}

/// What a device wrote to these records: since a position, and before it where it holds later stamps than are stored.
static OWN_WRITES: Sql = Sql {
    text: concat!(
        "select c.table_name, c.record_id, f.name, ",
        best!(),
        " as best, max(c.held ->> f.name collate \"C\") as held, max(c.created_at) as last
from (
    select c.* from unnest($3::text[], $4::text[]) as k (table_name, record_id)
    join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
    where c.log_id = $1 and c.client_id = $2 and c.created_at >= $5
    union all
    select c.* from unnest($3::text[], $4::text[]) as k (table_name, record_id)
    join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
    where c.log_id = $1 and c.client_id = $2 and c.created_at < $5 and c.held is not null
) c ",
        fields_of_change!(),
        "
group by c.table_name, c.record_id, f.name"
    ),
    types: &[Type::UUID, Type::TEXT, Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::TIMESTAMPTZ],
};

/// What was written to these records before a position.
static HISTORY: Sql = Sql {
    text: concat!(
        "select c.table_name, c.record_id, f.name, ",
        best!(),
        " as best
from unnest($2::text[], $3::text[]) as k (table_name, record_id)
join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id ",
        fields_of_change!(),
        "
where c.log_id = $1 and c.created_at < $4
group by c.table_name, c.record_id, f.name"
    ),
    types: &[Type::UUID, Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::TIMESTAMPTZ],
};

/// The statements here, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![("own writes", &OWN_WRITES), ("history", &HISTORY)]
}

impl Store {
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
        let records: BTreeSet<(&str, &str)> =
            changes.iter().filter(concerned).map(|change| (change.table.as_str(), change.record.as_str())).collect();
        if records.is_empty() {
            return Ok(own);
        }
        let (tables, ids): (Vec<&str>, Vec<&str>) = records.into_iter().unzip();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&log.0, &reader, &tables, &ids, &Micros(first.at)];
        for row in self.traced(traced::OWN_WRITES, &OWN_WRITES, &parameters).await? {
            let held: Option<&str> = row.try_get("held")?;
            let Micros(last) = row.try_get("last")?;
            let held = held.and_then(|held| Stamp::parse(held).ok());
            let Some(best) = best(&row)? else { continue };
            let record = (row.try_get("table_name")?, row.try_get("record_id")?);
            own.add_own(record, row.try_get("name")?, best, held, last);
        }
        self.add_history(log, first.at, &mut own).await?;
        Ok(own)
    }

    async fn add_history(&self, log: LogId, before: i64, own: &mut OwnWrites) -> Result<(), StoreError> {
        let (tables, ids): (Vec<&str>, Vec<&str>) = own.needs_history().into_iter().unzip();
        if tables.is_empty() {
            return Ok(());
        }
        for row in self.traced(traced::HISTORY, &HISTORY, &[&log.0, &tables, &ids, &Micros(before)]).await? {
            let Some(best) = best(&row)? else { continue };
            let record = (row.try_get("table_name")?, row.try_get("record_id")?);
            own.add_earlier(record, row.try_get("name")?, best);
        }
        Ok(())
    }
}

/// Reads the column `best`; none for a stamp that cannot be read.
fn best(row: &Row) -> Result<Option<Rank>, StoreError> {
    let best: &str = row.try_get("best")?;
    let Some((stamp, position)) = best.split_at_checked(Stamp::WIDTH) else { return Ok(None) };
    Ok(Stamp::parse(stamp).ok().zip(position.parse().ok()))
}
