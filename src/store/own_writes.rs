//! What a reading device itself wrote to the records on a page, where it bears on how they are sent (G3).
//!
//! PostgreSQL tells of each field the best write, whatever their number, and of those fields only that changes on the page
//! write. So what is read is bounded by the page, however many fields its records have.

use super::delta::PageRequest;
use super::own_statements::{HISTORY, OWN_WRITES, SOME_OWN_WRITES};
use super::pages::Pages;
use super::{PAST_ALL, StoreError, traced};
use crate::db::{Micros, Sql};
use crate::protocol::json::ObjectWriter;
use crate::protocol::merge::{OwnWrites, Rank, StoredChange, UnreadableChange};
use crate::protocol::page::size_of;
use crate::protocol::push::Op;
use crate::protocol::{LogId, Stamp};
use bytes::{BufMut, BytesMut};
use std::collections::HashMap;
use std::error::Error;
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// The statements here, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![("own writes", &OWN_WRITES), ("some own writes", &SOME_OWN_WRITES), ("history", &HISTORY)]
}

/// Rows that are looked at for what a device wrote to the records of a page, at first and each time after that. Most pages need
/// the first time only, and one that reaches the head needs no such bound: not many more come after its first change.
const LOOKED_AT: [i64; 2] = [4_000, 20_000];

/// What a row costs to take in, as bytes of [`HeavyWork`](crate::limits::heavy::HeavyWork).
const ROW_WORK: usize = 128;

impl Pages {
    /// What the reader itself wrote to the records of these changes, as far as it bears on how they are sent; and of how many
    /// of the changes, from the first on, that is known. Of the first it is; it ends before a record that would have it look at
    /// very many rows. `reader_holds`: whether it holds later stamps than are stored, anywhere in the log. `is_last`: whether the
    /// page reaches the head.
    pub(super) async fn own_writes(
        &self,
        log: LogId,
        request: &PageRequest<'_>,
        changes: &[StoredChange],
        reader_holds: bool,
        is_last: bool,
    ) -> Result<(OwnWrites, usize), StoreError> {
        let mut own = OwnWrites::new(request.own.is_initial_sync());
        let (Some(reader), Some(first)) = (request.reader, changes.first()) else { return Ok((own, changes.len())) };
        // On an initial sync what others wrote comes in its place among what the device wrote: only its own changes, and
        // what a delete may leave without a record, have to be looked at.
        let concerned = |change: &&StoredChange| match request.own.is_initial_sync() {
            true => reader_holds || change.is_own || change.op == Op::Delete || request.own.is_answer(),
            false => true,
        };
        let bytes = size_of(changes);
        let fields = self.heavy.run(bytes, || Fields::of_changes(changes.iter().filter(concerned))).await?;
        let asked = OwnFields { log, reader, fields: &fields, first: first.at };
        if is_last {
            self.look_at_all(&asked, &mut own).await?;
            self.add_history(log, first.at, &mut own).await?;
            return Ok((own, changes.len()));
        }
        // Records that are known, and down to where the next one is.
        let (mut known, mut before) = (0, PAST_ALL);
        for look in 0.. {
            let Some((stopped_in, at)) = self.look_at(&asked, look, (known, before), &mut own).await? else {
                known = fields.records.len();
                break;
            };
            let of_record = changes.iter().filter(concerned).filter(|change| fields.number(change) == Some(stopped_in));
            let is_replaced = self.heavy.run(bytes, || own.has_replaced_all(of_record)).await?;
            // Whatever else the device wrote to it, nothing of it is sent.
            (known, before) = if is_replaced { (stopped_in + 1, PAST_ALL) } else { (stopped_in, at) };
            if known == fields.records.len() || (known > 0 && look > 0) {
                break;
            }
        }
        self.add_history(log, first.at, &mut own).await?;
        let is_unknown =
            |change: &StoredChange| concerned(&change) && fields.number(change).is_some_and(|at| at >= known);
        Ok((own, changes.iter().position(is_unknown).unwrap_or(changes.len())))
    }

    async fn look_at_all(&self, asked: &OwnFields<'_>, own: &mut OwnWrites) -> Result<(), StoreError> {
        let OwnFields { log, reader, fields, first } = asked;
        let (tables, ids) = fields.records_from(0);
        let parameters: [&(dyn ToSql + Sync); 6] = [&log.0, reader, &tables, &ids, &Micros(*first), &fields.names];
        let rows = self.traced(traced::OWN_WRITES, &OWN_WRITES, &parameters).await?;
        self.heavy.run(rows.len() * ROW_WORK, || add_own_rows(own, &rows).map(drop)).await
    }

    /// Looks at what the reader wrote to the records from one on, of that one before a position. Where it stopped, if it did: in
    /// which record, and at which position.
    async fn look_at(
        &self,
        asked: &OwnFields<'_>,
        look: usize,
        (from, before): (usize, i64),
        own: &mut OwnWrites,
    ) -> Result<Option<(usize, i64)>, StoreError> {
        let OwnFields { log, reader, fields, first } = asked;
        let (tables, ids) = fields.records_from(from);
        let names: Vec<&Jsonb> = fields.names.iter().skip(from).collect();
        let befores: Vec<Micros> =
            (from..fields.records.len()).map(|at| Micros(if at == from { before } else { PAST_ALL })).collect();
        let most = LOOKED_AT[look.min(LOOKED_AT.len() - 1)];
        let parameters: [&(dyn ToSql + Sync); 9] =
            [&log.0, reader, &tables, &ids, &Micros(*first), &names, &befores, &most, &(look == 0)];
        let rows = self.traced(traced::OWN_WRITES, &SOME_OWN_WRITES, &parameters).await?;
        let stopped = self.heavy.run(rows.len() * ROW_WORK, || add_own_rows(own, &rows)).await?;
        Ok(stopped.and_then(|(record, at)| Some((*fields.numbers.get(&record)?, at))))
    }

    async fn add_history(&self, log: LogId, before: i64, own: &mut OwnWrites) -> Result<(), StoreError> {
        let rows = {
            let fields = Fields::of_records(own.needs_history());
            if fields.records.is_empty() {
                return Ok(());
            }
            let (tables, ids) = fields.records_from(0);
            let parameters: [&(dyn ToSql + Sync); 5] = [&log.0, &tables, &ids, &Micros(before), &fields.names];
            self.traced(traced::HISTORY, &HISTORY, &parameters).await?
        };
        self.heavy.run(rows.len() * ROW_WORK, || add_earlier_rows(own, &rows)).await
    }
}

/// What is asked of a device's own writes: since the first change of a page.
struct OwnFields<'a> {
    log: LogId,
    reader: &'a str,
    fields: &'a Fields<'a>,
    first: i64,
}

/// Fields of records, to be asked for.
#[derive(Default)]
struct Fields<'a> {
    records: Vec<(&'a str, &'a str)>,
    /// Of each record, as members of an object: so PostgreSQL finds one among many quickly.
    names: Vec<Jsonb>,
    /// Where each record is among them.
    numbers: HashMap<(&'a str, &'a str), usize>,
}

impl<'a> Fields<'a> {
    /// Those that changes write. Records are in the order of their first changes.
    fn of_changes(changes: impl Iterator<Item = &'a StoredChange>) -> Result<Fields<'a>, UnreadableChange> {
        let (mut fields, mut objects) = (Fields::default(), Vec::new());
        for change in changes {
            let record = (change.table.as_str(), change.record.as_str());
            let number = *fields.numbers.entry(record).or_insert_with(|| {
                fields.records.push(record);
                objects.push(ObjectWriter::new());
                objects.len() - 1
            });
            change.field_names()?.iter().for_each(|name| objects[number].raw(name, "0"));
        }
        fields.names = objects.into_iter().map(|names| Jsonb(names.finish())).collect();
        Ok(fields)
    }

    fn of_records(records: Vec<((&'a str, &'a str), Vec<&'a str>)>) -> Fields<'a> {
        let object = |fields: Vec<&str>| {
            let mut names = ObjectWriter::new();
            fields.iter().for_each(|name| names.raw(name, "0"));
            Jsonb(names.finish())
        };
        let (records, names) = records.into_iter().map(|(record, fields)| (record, object(fields))).unzip();
        Fields { records, names, numbers: HashMap::new() }
    }

    /// Where the record of a change is among those that are asked for.
    fn number(&self, change: &StoredChange) -> Option<usize> {
        self.numbers.get(&(change.table.as_str(), change.record.as_str())).copied()
    }

    /// Tables and ids of the records, from one on.
    fn records_from(&self, from: usize) -> (Vec<&'a str>, Vec<&'a str>) {
        self.records.iter().skip(from).copied().unzip()
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

/// Takes in what was found. The record in which the look stopped, and where, if it did.
fn add_own_rows<'a>(own: &mut OwnWrites, rows: &'a [Row]) -> Result<Option<StoppedAt<'a>>, StoreError> {
    let mut stopped = None;
    for row in rows {
        let record = (row.try_get(0)?, row.try_get(1)?);
        if row.len() > STOPPED_AT
            && let Some(Micros(at)) = row.try_get(STOPPED_AT)?
        {
            stopped = Some((record, at));
        }
        let Some(Micros(last)) = row.try_get(5)? else { continue };
        own.add_record(record, last);
        let Some(best) = best(row)? else { continue };
        let held: Option<&str> = row.try_get(4)?;
        let held = held.and_then(|held| Stamp::parse(held).ok());
        own.add_own(record, row.try_get(2)?, best, held);
    }
    Ok(stopped)
}

/// The column that says where a look stopped, where one may.
const STOPPED_AT: usize = 6;

/// A record, and a position in its history.
type StoppedAt<'a> = ((&'a str, &'a str), i64);

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
