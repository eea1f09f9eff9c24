//! The statement that stores pushes: many in one, each whole or not at all and once however often it comes (G1).

use super::push::Stored;
use super::{Store, traced};
use crate::defects::Defect;
use crate::protocol::push::{NewChange, Push};
use crate::protocol::{Cursor, Log, LogId};
use sqlx::Row;
use sqlx::types::Uuid;
use sqlx::types::chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The statement, given how it takes the heads.
///
/// * `$1`–`$5`: the logs, ordered by id: id, user's key, user, app, how many changes come.
/// * `$6`–`$7`: the pushes: log, id of the first row.
/// * `$8`–`$18`: the changes: which push (from 1), log, how many positions before the log's new head, the columns.
///
/// A push of which the first row is there is left out: it has been stored. Its positions stay empty. It is looked up as
/// one row, because as `not exists` the plan that is made while the table is small reads all of it, and is kept.
macro_rules! push_statement {
    ($heads:literal) => {
        concat!(
            "with fresh as materialized (
    select p.push, p.log_id
    from unnest($6::uuid[], $7::uuid[]) with ordinality as p (log_id, first_row, push)
    where (select true from sync_changes s where s.id = p.first_row limit 1) is null
), logs as (
    select l.*
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::int8[])
             as l (log_id, user_key, user_id, app_id, changes)
    where l.log_id in (select log_id from fresh)
    order by l.log_id
), heads as (",
            $heads,
            "
), stored as (
    insert into sync_changes (id, log_id, user_id, app_id, client_id, table_name, record_id, op, data,
                              field_timestamps, held, size, created_at)
    select c.id, heads.log_id, heads.user_id, heads.app_id, c.client_id, c.table_name, c.record_id, c.op,
           c.data::jsonb, c.stamps::jsonb, c.held::jsonb,
           coalesce(octet_length(c.data), 0) + octet_length(c.stamps),
           heads.head - c.before_head * interval '2 microseconds'
    from unnest($8::int4[], $9::uuid[], $10::int4[], $11::uuid[], $12::text[], $13::text[], $14::text[],
                $15::text[], $16::text[], $17::text[], $18::text[])
             as c (push, log_id, before_head, id, client_id, table_name, record_id, op, data, stamps, held)
    join heads on heads.log_id = c.log_id
    where c.push in (select push from fresh)
)
select push, head, previous from fresh join heads using (log_id)"
        )
    };
}

/// Takes the heads of the logs, then stores the changes with the cursors up to them.
///
/// `clock_timestamp()`, because `now()` is when the transaction began, not when its rows become visible. A head is
/// the greater of the clock and the next after the head before, so cursors ascend even where the clock does not.
/// All positions are even microseconds: see [`Cursor`]. Heads are taken in the order of their ids, so two batches
/// never wait for each other.
const PUSH: &str = push_statement!(
    "
    insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous)
    select log_id, user_key, user_id, app_id,
           date_bin('2 microseconds', clock_timestamp(), 'epoch') + (changes - 1) * interval '2 microseconds',
           'epoch'
    from logs
    on conflict (log_id) do update set
        previous = h.head,
        head = greatest(excluded.head,
                        h.head + ($5::int8[])[array_position($1::uuid[], h.log_id)] * interval '2 microseconds')
    returning log_id, user_id, app_id, head, previous"
);

/// [`PUSH`] as one would first write it; see [`Defect::NoHeadRow`].
const PUSH_WITHOUT_LOCK: &str = push_statement!(
    "
    select log_id, user_id, app_id,
           date_bin('2 microseconds', now(), 'epoch') + (changes - 1) * interval '2 microseconds' as head,
           timestamptz 'epoch' as previous
    from logs
), noted as (
    insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous)
    select logs.log_id, logs.user_key, logs.user_id, logs.app_id, heads.head, heads.previous
    from logs join heads using (log_id)
    on conflict (log_id) do update set head = greatest(h.head, excluded.head)"
);

/// A push that is to be stored in the log of its user.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) log: Log,
    pub(super) push: Arc<Push>,
    /// The ids of its rows, in the order of its changes.
    pub(super) ids: Vec<Uuid>,
}

/// The logs of a batch, and how many changes each gets.
struct Logs<'a>(BTreeMap<LogId, (&'a Log, i64)>);

impl<'a> Logs<'a> {
    fn of(entries: &[&'a Entry]) -> Logs<'a> {
        let mut logs = BTreeMap::new();
        for entry in entries {
            logs.entry(entry.log.id).or_insert((&entry.log, 0)).1 += entry.push.changes.len() as i64;
        }
        Logs(logs)
    }

    fn column<T>(&self, of: impl Fn(&(&'a Log, i64)) -> T) -> Vec<T> {
        self.0.values().map(of).collect()
    }

    /// For each entry, how many positions before the head of its log its last change is.
    fn before_heads(&self, entries: &[&Entry]) -> Vec<i64> {
        let mut left: BTreeMap<LogId, i64> = self.0.iter().map(|(id, (_, changes))| (*id, *changes)).collect();
        let take = |entry: &&Entry| {
            let left = left.entry(entry.log.id).or_default();
            *left -= entry.push.changes.len() as i64;
            *left
        };
        entries.iter().map(take).collect()
    }
}

impl Store {
    /// Stores pushes, all or none of them; those that had been stored before stay as they are, and none is said of
    /// them.
    pub(super) async fn insert(&self, entries: &[&Entry]) -> Result<Vec<Option<Stored>>, sqlx::Error> {
        let logs = Logs::of(entries);
        let before_heads = logs.before_heads(entries);
        let rows = self.insert_rows(entries, &logs, &before_heads).await?;
        let mut stored = vec![None; entries.len()];
        // Where each log stood before the next of its pushes.
        let mut previous: BTreeMap<LogId, i64> = BTreeMap::new();
        for (index, head, before) in rows {
            let (Some(entry), Some(before_head)) = (entries.get(index), before_heads.get(index)) else { continue };
            let last = head - before_head * Cursor::STEP;
            let first = last - (entry.push.changes.len() as i64 - 1) * Cursor::STEP;
            let previous = previous.insert(entry.log.id, last).unwrap_or(before);
            stored[index] = Some(Stored { first, last, previous: Some(previous) });
        }
        Ok(stored)
    }

    /// Of each push that was stored now, in their order: its index, the new head of its log, and the one before.
    async fn insert_rows(
        &self,
        entries: &[&Entry],
        logs: &Logs<'_>,
        before_heads: &[i64],
    ) -> Result<Vec<(usize, i64, i64)>, sqlx::Error> {
        let mut changes = Vec::new();
        for ((entry, before_head), ordinal) in entries.iter().zip(before_heads).zip(1_i32..) {
            let last = *before_head + entry.push.changes.len() as i64 - 1;
            let placed = entry.push.changes.iter().zip(&entry.ids).zip(0..);
            changes.extend(placed.map(|((change, id), n)| Placed {
                push: ordinal,
                log: entry.log.id,
                before_head: (last - n) as i32,
                id: *id,
                client: &entry.push.client,
                change,
            }));
        }
        let statement = if Defect::NoHeadRow.is_on() { PUSH_WITHOUT_LOCK } else { PUSH };
        let statement = sqlx::query(statement)
            .bind(logs.column(|(log, _)| log.id.0))
            .bind(logs.column(|(log, _)| log.user.0))
            .bind(logs.column(|(log, _)| &*log.user_id))
            .bind(logs.column(|(log, _)| &*log.app))
            .bind(logs.column(|(_, changes)| *changes))
            .bind(column(entries, |entry| entry.log.id.0))
            .bind(column(entries, |entry| entry.ids.first().copied()))
            .bind(column(&changes, |placed| placed.push))
            .bind(column(&changes, |placed| placed.log.0))
            .bind(column(&changes, |placed| placed.before_head))
            .bind(column(&changes, |placed| placed.id))
            .bind(column(&changes, |placed| placed.client))
            .bind(column(&changes, |placed| placed.change.table.as_str()))
            .bind(column(&changes, |placed| placed.change.record.as_str()))
            .bind(column(&changes, |placed| placed.change.op.name()))
            .bind(column(&changes, |placed| placed.change.data.as_deref()))
            .bind(column(&changes, |placed| placed.change.stamps.as_str()))
            .bind(column(&changes, |placed| placed.change.held.as_deref()))
            .fetch_all(&self.pool);
        let mut stored = Vec::with_capacity(entries.len());
        for row in self.traced(traced::PUSH, statement).await? {
            let push: i64 = row.try_get("push")?;
            let head: DateTime<Utc> = row.try_get("head")?;
            let previous: DateTime<Utc> = row.try_get("previous")?;
            stored.push((push as usize - 1, head.timestamp_micros(), previous.timestamp_micros()));
        }
        stored.sort_unstable();
        Ok(stored)
    }
}

/// A change, and where it goes.
struct Placed<'a> {
    push: i32,
    log: LogId,
    before_head: i32,
    id: Uuid,
    client: &'a str,
    change: &'a NewChange,
}

fn column<'a, S, T>(of: &'a [S], what: impl Fn(&'a S) -> T) -> Vec<T> {
    of.iter().map(what).collect()
}
