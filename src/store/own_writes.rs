//! What a reading device itself wrote to the records on a page, where it bears on how they are sent (G3).
//!
//! PostgreSQL tells of each field the best write, whatever their number, and of those fields only that changes on the page
//! write. So what is read is bounded by the page, however many fields its records have; and what is looked at for it, by the page
//! having fewer changes where that is very much (G6).

use super::delta::PageRequest;
use super::often_written::{LongRecord, Writer};
use super::own_fields::Fields;
use super::own_rows::OwnRows;
use super::own_statements::{CLAIMED, EARLIER_WRITES, OWN_POSITIONS, OWN_WRITES, SOME_OWN_WRITES};
use super::page_memory::{BECOMES, PageMemory};
use super::pages::Pages;
use super::{PAST_ALL, StoreError, traced};
use crate::db::{Micros, Sql};
use crate::limits::reads::ReadTurn;
use crate::protocol::LogId;
use crate::protocol::merge::{OwnWrites, StoredChange};
use crate::protocol::page::{ENVELOPE, size_of};
use crate::protocol::push::Op;
use crate::telemetry::traces::Query;
use tokio_postgres::types::ToSql;

/// The statements here, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![
        ("own writes", &OWN_WRITES),
        ("some own writes", &SOME_OWN_WRITES),
        ("earlier writes", &EARLIER_WRITES),
        ("claimed stamps", &CLAIMED),
        ("own positions", &OWN_POSITIONS),
    ]
}

/// Rows that are looked at for what was written to the records of a page, at first and each time after that. Most pages need
/// the first time only, and one that reaches the head needs no such bound: not many more come after its first change.
const LOOKED_AT: [i64; 2] = [4_000, 20_000];

/// What a row costs to take in, as bytes of [`HeavyWork`](crate::limits::heavy::HeavyWork).
const ROW_WORK: usize = 128;

/// The changes of a page, of which it is asked what else was written to their records.
pub(super) struct OnPage<'a> {
    pub(super) log: LogId,
    pub(super) request: &'a PageRequest<'a>,
    pub(super) changes: &'a [StoredChange],
    /// What of them is text already, in bytes.
    pub(super) written_bytes: usize,
    /// Whether the reader holds later stamps than are stored, anywhere in the log.
    pub(super) reader_holds: bool,
    /// The newest position of the log; and whether the page reaches it.
    pub(super) head: i64,
    pub(super) is_last: bool,
    pub(super) memory: &'a PageMemory,
}

impl OnPage<'_> {
    /// On an initial sync what others wrote comes in its place among what the device wrote: only its own changes, and
    /// what a delete may leave without a record, have to be looked at.
    fn concerns(&self, change: &StoredChange) -> bool {
        let own = self.request.own;
        !own.is_initial_sync() || self.reader_holds || change.is_own || change.op == Op::Delete || own.is_answer()
    }
}

/// What is asked of the writes to some records of a page.
struct Asked<'a> {
    page: &'a OnPage<'a>,
    reader: &'a str,
    fields: &'a Fields<'a>,
    /// The position of the page's first change.
    first: i64,
    /// Bytes of its changes, and of what is held beside them while it is asked.
    bytes: usize,
    beside: usize,
}

/// Which rows of a record are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// From the page's first change on.
    Since,
    /// Those before it.
    Before,
}

/// Where a look begins in the first of its records.
struct Begin<'a> {
    before: i64,
    since: i64,
    /// Positions before that at which the reader is known to have written it.
    written: &'a [Micros],
}

impl Pages {
    /// What the reader itself wrote to the records of these changes, as far as it bears on how they are sent; and of how many
    /// of the changes, from the first on, that is known. Of the first it is; it ends before a record that would have it look at
    /// very many rows.
    ///
    /// # Errors
    /// [`StoreError::NeedsMemory`]: fewer changes may do.
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
        // Whoever wrote something to them gets their text written anew.
        let beside = fields.size() + page.written_bytes;
        page.memory.cover(bytes, beside).ok_or(StoreError::NeedsMemory(BECOMES * (bytes + beside)))?;
        let asked = Asked { page, reader, fields: &fields, first: first.at, bytes, beside };
        let mut known: Vec<usize> = (0..fields.records.len()).collect();
        if !(page.is_last && self.look_at_all(&asked, &known, &mut own).await?) {
            let count = self.look_at_some(&asked, Rows::Since, &known, &mut own, turn).await?;
            known.truncate(count);
        }
        let mut end = known.len();
        // What came before the page matters to those whose clock was ahead, and only of what they wrote themselves.
        if page.reader_holds {
            let claimed = self.claimed(&asked, &known).await?;
            let count = self.look_at_some(&asked, Rows::Before, &claimed, &mut own, turn).await?;
            end = claimed.get(count).copied().unwrap_or(end);
        }
        let is_unknown =
            |change: &StoredChange| page.concerns(change) && fields.number(change).is_some_and(|at| at >= end);
        Ok((own, changes.iter().position(is_unknown).unwrap_or(changes.len())))
    }

    /// Looks at all that the device wrote to these records, if that is not too much to be looked into at once: false, then.
    async fn look_at_all(&self, asked: &Asked<'_>, records: &[usize], own: &mut OwnWrites) -> Result<bool, StoreError> {
        let (tables, ids, names) = asked.fields.of(records);
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&asked.page.log.0, &asked.reader, &tables, &ids, &Micros(asked.first), &names];
        let stopped = self.read_own(asked, records, (traced::OWN_WRITES, &OWN_WRITES), &parameters, own).await?;
        Ok(stopped.is_none())
    }

    /// Looks at what was written to these records, in looks of so many rows: two of them, and more if the page's first record is not
    /// known by then. Of how many of these records, from the first on, it is.
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
            // Of the page's first record it has to be known.
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
            // Whatever else the device wrote to it, nothing of it is sent.
            (known, before) = if is_replaced { (known + place + 1, newest) } else { (known + place, at) };
        }
        Ok(known)
    }

    /// Looks at so many rows of these records, of the first of them from where it begins. Where it stopped, if it did: in which of
    /// them, and at which position.
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

    /// Reads what a statement tells of these records. Where it stopped looking, if it did.
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

    /// Those of these records to which the reader wrote with later stamps than are stored.
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

    /// Takes note of where the reader wrote a record, in what was looked at of it; until where that was, if not to its end.
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
