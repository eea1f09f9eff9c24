//! A reading device's own writes to the records on a page, where they affect how its changes are sent (G3).
//!
//! For each field, PostgreSQL returns only the best write, however many there are, and only for fields that changes on
//! the page write. The result is therefore bounded by the page, however many fields its records have. The rows scanned
//! for it are bounded too: if they are very many, the page gets fewer changes (G6).

use super::often_written::{LongRecord, Writer};
use super::own_fields::Fields;
use super::own_rows::OwnRows;
use super::own_statements::{CLAIMED, EARLIER_WRITES, OWN_POSITIONS, OWN_WRITES, SOME_OWN_WRITES};
use super::page_memory::{BECOMES, PageMemory};
use super::page_request::PageRequest;
use super::pages::Pages;
use super::{PAST_ALL, StoreError, traced};
use crate::db::{Micros, Sql};
use crate::limits::heavy::LIGHT;
use crate::limits::reads::ReadTurn;
use crate::protocol::LogId;
use crate::protocol::merge::{OwnWrites, StoredChange};
use crate::protocol::page::{ENVELOPE, size_of};
use crate::protocol::push::Op;
use crate::telemetry::traces::Query;
use tokio_postgres::types::ToSql;

/// Returns the statements of this file, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![
        ("own writes", &OWN_WRITES),
        ("some own writes", &SOME_OWN_WRITES),
        ("earlier writes", &EARLIER_WRITES),
        ("claimed stamps", &CLAIMED),
        ("own positions", &OWN_POSITIONS),
    ]
}

/// Number of rows read to find the writes to the records of a page: in the first statement, and in each one after that.
/// Most pages need only the first. A page that reaches the head needs no such bound: little comes after its first
/// change.
const LOOKED_AT: [i64; 2] = [4_000, 20_000];

/// The cost of processing a row, in bytes of [`HeavyWork`](crate::limits::heavy::HeavyWork).
const ROW_WORK: usize = 128;

/// The changes of a page, for which other writes to their records are looked up.
pub(super) struct OnPage<'a> {
    pub(super) log: LogId,
    pub(super) request: &'a PageRequest<'a>,
    pub(super) changes: &'a [StoredChange],
    /// The size of those that are serialized already, in bytes.
    pub(super) written_bytes: usize,
    /// True if the reader holds later stamps than are stored, anywhere in the log.
    pub(super) reader_holds: bool,
    /// The newest position of the log, and whether the page reaches it.
    pub(super) head: i64,
    pub(super) is_last: bool,
    pub(super) memory: &'a PageMemory,
}

impl OnPage<'_> {
    /// Returns true if own writes matter for a change. On an initial sync, others' changes are sent in order along with
    /// the device's own; only its own changes have to be checked, and deletes, which may leave nothing of a record.
    fn concerns(&self, change: &StoredChange) -> bool {
        let own = self.request.own;
        !own.is_initial_sync() || self.reader_holds || change.is_own || change.op == Op::Delete || own.is_answer()
    }
}

/// The context of a lookup of writes to some records of a page.
struct Asked<'a> {
    page: &'a OnPage<'a>,
    reader: &'a str,
    fields: &'a Fields<'a>,
    /// The position of the page's first change.
    first: i64,
    /// Bytes of its changes, and of everything else held during the lookup.
    bytes: usize,
    beside: usize,
}

/// The rows of a record to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// From the page's first change on.
    Since,
    /// Before the page's first change.
    Before,
}

/// Where a read starts in the first of its records.
struct Begin<'a> {
    before: i64,
    since: i64,
    /// Earlier positions at which the reader is known to have written it.
    written: &'a [Micros],
}

impl Pages {
    /// Returns the reader's own writes to the records of these changes, where they affect how the changes are sent,
    /// and the number of leading changes for which they are known. That is at least one; it ends before a record that
    /// would require reading very many rows.
    ///
    /// # Errors
    /// [`StoreError::NeedsMemory`]: fewer changes may fit.
    pub(super) async fn own_writes(
        &self,
        page: &OnPage<'_>,
        turn: &mut ReadTurn,
    ) -> Result<(OwnWrites, usize), StoreError> {
        let (request, changes) = (page.request, page.changes);
        let mut own = OwnWrites::new(request.own.is_initial_sync());
        let (Some(reader), Some(first)) = (request.reader, changes.first()) else { return Ok((own, changes.len())) };
        let bytes = ENVELOPE + size_of(changes);
        let concerned = changes.iter().filter(|change| page.concerns(change));
        let fields = self.heavy.run(bytes, || Fields::of_changes(concerned)).await?;
        if fields.records.is_empty() {
            return Ok((own, changes.len()));
        }
        // Changes to a record that the reader wrote are serialized again.
        let beside = fields.size() + page.written_bytes;
        page.memory.cover(bytes, beside).ok_or(StoreError::NeedsMemory(BECOMES * (bytes + beside)))?;
        let asked = Asked { page, reader, fields: &fields, first: first.at, bytes, beside };
        let _long = if bytes + beside > LIGHT { turn.for_long().await? } else { None };
        let mut known: Vec<usize> = (0..fields.records.len()).collect();
        if !(page.is_last && self.look_at_all(&asked, &known, &mut own).await?) {
            let count = self.look_at_some(&asked, Rows::Since, &known, &mut own, turn).await?;
            known.truncate(count);
        }
        let mut end = known.len();
        // Writes before the page matter only to readers whose clock was ahead, and only for records they wrote
        // themselves.
        if page.reader_holds {
            let claimed = self.claimed(&asked, &known).await?;
            let count = self.look_at_some(&asked, Rows::Before, &claimed, &mut own, turn).await?;
            end = claimed.get(count).copied().unwrap_or(end);
        }
        let is_unknown =
            |change: &StoredChange| page.concerns(change) && fields.number(change).is_some_and(|at| at >= end);
        Ok((own, changes.iter().position(is_unknown).unwrap_or(changes.len())))
    }

    /// Reads all of the device's writes to these records; false if that costs too much for one statement.
    async fn look_at_all(&self, asked: &Asked<'_>, records: &[usize], own: &mut OwnWrites) -> Result<bool, StoreError> {
        let (tables, ids, names) = asked.fields.of(records);
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&asked.page.log.0, &asked.reader, &tables, &ids, &Micros(asked.first), &names];
        let stopped = self.read_own(asked, records, (traced::OWN_WRITES, &OWN_WRITES), &parameters, own).await?;
        Ok(stopped.is_none())
    }

    /// Reads writes to these records in statements of limited size: two of them, and more if the page's first record is
    /// not known by then. Returns the number of leading records that are known.
    async fn look_at_some(
        &self,
        asked: &Asked<'_>,
        rows: Rows,
        records: &[usize],
        own: &mut OwnWrites,
        turn: &mut ReadTurn,
    ) -> Result<usize, StoreError> {
        let newest = if rows == Rows::Since { PAST_ALL } else { asked.first };
        let (mut known, mut before) = (0, newest);
        let mut long: Option<LongRecord> = None;
        for look in 0.. {
            // The page's first record must be known.
            let Some(&record) = records.get(known).filter(|record| **record == 0 || look < 2) else { break };
            if look >= LOOKED_AT.len() {
                turn.after_others().await;
            }
            if look > 0 && rows == Rows::Since && long.as_ref().is_none_or(|long| long.record != record) {
                let writer = Writer::new(asked.page.log, asked.reader, asked.fields.record(record).unwrap_or_default());
                long = Some(LongRecord::new(&self.often, record, writer, (asked.first, before, asked.page.head)));
            }
            let (since, written) = match &long {
                Some(long) if look > 0 => (long.since(asked.first), long.written(asked.first, before)),
                _ => (asked.first, vec![]),
            };
            let begin = Begin { before, since, written: &written };
            let stopped = self.look_at(asked, (rows, look), &records[known..], &begin, own).await?;
            if let Some(long) = &mut long {
                let is_within = stopped.filter(|(place, _)| *place == 0);
                self.note_positions(asked, long, is_within.map(|(_, at)| at), &begin).await?;
            }
            let Some((place, at)) = stopped else { return Ok(records.len()) };
            let stopped_in = records[known + place];
            let is_of_it =
                |change: &&StoredChange| asked.page.concerns(change) && asked.fields.number(change) == Some(stopped_in);
            let of_record = asked.page.changes.iter().filter(is_of_it);
            let is_replaced = self.heavy.run(asked.bytes, || own.has_replaced_all(of_record)).await?;
            // Nothing of it is sent, whatever else the device wrote to it.
            (known, before) = if is_replaced { (known + place + 1, newest) } else { (known + place, at) };
        }
        Ok(known)
    }

    /// Reads a limited number of rows of these records, starting in the first of them at `begin`. Returns the record
    /// and the position at which it stopped, if it did.
    async fn look_at(
        &self,
        asked: &Asked<'_>,
        (rows, look): (Rows, usize),
        records: &[usize],
        begin: &Begin<'_>,
        own: &mut OwnWrites,
    ) -> Result<Option<(usize, i64)>, StoreError> {
        let (tables, ids, names) = asked.fields.of(records);
        let (first, before, since) = (Micros(asked.first), Micros(begin.before), Micros(begin.since));
        let most = LOOKED_AT[look.min(LOOKED_AT.len() - 1)];
        let parameters: [&(dyn ToSql + Sync); 10] =
            [&asked.page.log.0, &asked.reader, &tables, &ids, &first, &names, &before, &most, &since, &begin.written];
        match rows {
            Rows::Since => {
                self.read_own(asked, records, (traced::OWN_WRITES, &SOME_OWN_WRITES), &parameters, own).await
            }
            Rows::Before => {
                self.read_own(asked, records, (traced::HISTORY, &EARLIER_WRITES), &parameters[..8], own).await
            }
        }
    }

    /// Reads the result of a statement about these records. Returns where it stopped, if it did.
    async fn read_own(
        &self,
        asked: &Asked<'_>,
        records: &[usize],
        (query, statement): (Query, &'static Sql),
        parameters: &[&(dyn ToSql + Sync)],
        own: &mut OwnWrites,
    ) -> Result<Option<(usize, i64)>, StoreError> {
        let beside = asked.beside + own.size();
        let sink = || OwnRows::new(asked.page.memory, asked.bytes, beside);
        let rows = traced::run_into(&self.pool, query, statement, parameters, &sink).await?.finish()?;
        let stopped = rows.stopped();
        let record = |place: usize| asked.fields.record(*records.get(place)?);
        self.heavy.run(rows.count() * ROW_WORK, || rows.add_to(own, record)).await;
        Ok(stopped)
    }

    /// Returns those of these records to which the reader wrote with later stamps than are stored.
    async fn claimed(&self, asked: &Asked<'_>, records: &[usize]) -> Result<Vec<usize>, StoreError> {
        let (tables, ids, _) = asked.fields.of(records);
        let parameters: [&(dyn ToSql + Sync); 4] = [&asked.page.log.0, &asked.reader, &tables, &ids];
        let rows = traced::run(&self.pool, traced::OWN_WRITES, &CLAIMED, &parameters).await?;
        let mut claimed = Vec::with_capacity(rows.len());
        for row in rows {
            let number: i64 = row.try_get(0)?;
            claimed.extend(usize::try_from(number - 1).ok().and_then(|place| records.get(place)));
        }
        Ok(claimed)
    }

    /// Records the positions of the reader's writes in the part of a record that was read; `stopped_at` is where
    /// reading stopped, if not at its end.
    async fn note_positions(
        &self,
        asked: &Asked<'_>,
        long: &mut LongRecord,
        stopped_at: Option<i64>,
        begin: &Begin<'_>,
    ) -> Result<(), StoreError> {
        if let Some((from, before, most)) = long.asks(stopped_at, begin.since, begin.before) {
            let (table, id) = asked.fields.record(long.record).unwrap_or_default();
            let parameters: [&(dyn ToSql + Sync); 7] =
                [&asked.page.log.0, &asked.reader, &table, &id, &Micros(from), &Micros(before), &most];
            let rows = traced::run(&self.pool, traced::OWN_WRITES, &OWN_POSITIONS, &parameters).await?;
            let positions: Result<Vec<Micros>, _> = rows.iter().map(|row| row.try_get(0)).collect();
            long.found(positions?.into_iter().map(|Micros(at)| at));
        }
        if stopped_at.is_none() {
            long.keep(&self.often, asked.first);
        }
        Ok(())
    }
}
