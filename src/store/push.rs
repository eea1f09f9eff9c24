//! Storing a push: whole or not at all, once however often it comes (G1).

use super::{Store, StoreError, time, traced};
use crate::defects::Defect;
use crate::protocol::merge::StoredChange;
use crate::protocol::push::{NewChange, Op, Push};
use crate::protocol::{Cursor, Log};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;
use sqlx::types::chrono::{DateTime, Utc};

/// A push, given how it takes the head.
macro_rules! push_statement {
    ($head:literal) => {
        concat!(
            "with head as (",
            $head,
            "
), stored as (
    insert into sync_changes (id, log_id, user_id, app_id, client_id, table_name, record_id, op, data,
                              field_timestamps, held, size, created_at)
    select c.id, $1, $3, $4, $6, c.table_name, c.record_id, c.op, c.data::jsonb, c.stamps::jsonb, c.held::jsonb,
           coalesce(octet_length(c.data), 0) + octet_length(c.stamps),
           head.head - ($5 - c.position) * interval '2 microseconds'
    from head,
         unnest($7::uuid[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[])
             with ordinality as c (id, table_name, record_id, op, data, stamps, held, position)
)
select head, previous from head"
        )
    };
}

/// Takes the head of the log, then stores the changes with the cursors up to it.
///
/// `clock_timestamp()`, because `now()` is when the transaction began, not when its rows become visible. The
/// position is the greater of the clock and the next after the head, so cursors ascend even where the clock does
/// not. All positions are even microseconds: see [`Cursor`].
const PUSH: &str = push_statement!(
    "
    insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous)
    values ($1, $2, $3, $4,
            date_bin('2 microseconds', clock_timestamp(), 'epoch') + ($5 - 1) * interval '2 microseconds',
            'epoch')
    on conflict (log_id) do update set
        previous = h.head,
        head = greatest(date_bin('2 microseconds', clock_timestamp(), 'epoch'), h.head + interval '2 microseconds')
               + ($5 - 1) * interval '2 microseconds'
    returning head, previous"
);

/// [`PUSH`] as one would first write it; see [`Defect::NoHeadRow`].
const PUSH_WITHOUT_LOCK: &str = push_statement!(
    "
    select date_bin('2 microseconds', now(), 'epoch') + ($5 - 1) * interval '2 microseconds' as head,
           timestamptz 'epoch' as previous
), noted as (
    insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous)
    select $1, $2, $3, $4, head.head, head.previous from head
    on conflict (log_id) do update set head = greatest(h.head, excluded.head)"
);

const STORED_BEFORE: &str = "
select id, created_at, table_name, record_id, op, data::text as data, field_timestamps::text as stamps
from sync_changes where id = any($1) and log_id = $2 and client_id = $3 order by created_at";

/// Where a push stands in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The position of its first change.
    pub first: i64,
    /// The position of its last change: the head when it was stored.
    pub last: i64,
    /// The head before it, in microseconds; 0 where there was none, none where the push had been stored before.
    pub previous: Option<i64>,
}

impl Stored {
    /// Whether this push had been stored by an earlier attempt.
    pub fn was_retried(&self) -> bool {
        self.previous.is_none()
    }
}

impl Store {
    /// Stores the changes of a push, of which there must be some.
    ///
    /// A push that is stored already is found by the ids of its rows, and stays as it is.
    pub async fn push(&self, log: &Log, push: &Push) -> Result<Stored, StoreError> {
        // Turns order the pushes of one replica, as the head row's lock orders those of all.
        let _turn = match Defect::NoHeadRow.is_on() {
            true => None,
            false => Some(self.turns.take(log.id, self.patience).await.ok_or(StoreError::TurnTimeout)?),
        };
        self.despite_loss(|| self.try_push(log, push)).await
    }

    async fn try_push(&self, log: &Log, push: &Push) -> Result<Stored, StoreError> {
        let ids = if Defect::NoRetryDetection.is_on() {
            push.changes.iter().map(|_| Uuid::from_u128(rand::random())).collect()
        } else {
            push.fingerprint.row_ids(&log.user_id, &log.app, push.changes.len())
        };
        match self.insert(log, push, &ids).await {
            Err(sqlx::Error::Database(error)) if error.constraint() == Some("sync_changes_pkey") => {
                let rows = self.stored_rows(log, push, &ids).await?;
                let positions = || rows.iter().map(|row| row.at);
                Ok(Stored {
                    first: positions().min().unwrap_or_default(),
                    last: positions().max().unwrap_or_default(),
                    previous: None,
                })
            }
            stored => Ok(stored?),
        }
    }

    async fn insert(&self, log: &Log, push: &Push, ids: &[Uuid]) -> Result<Stored, sqlx::Error> {
        fn column<'a, T>(changes: &'a [NewChange], of: impl Fn(&'a NewChange) -> T) -> Vec<T> {
            changes.iter().map(of).collect()
        }
        let changes = push.changes.as_slice();
        let statement = if Defect::NoHeadRow.is_on() { PUSH_WITHOUT_LOCK } else { PUSH };
        let statement = sqlx::query(statement)
            .bind(log.id.0)
            .bind(log.user.0)
            .bind(&*log.user_id)
            .bind(&*log.app)
            .bind(changes.len() as i64)
            .bind(&push.client)
            .bind(ids)
            .bind(column(changes, |change| change.table.as_str()))
            .bind(column(changes, |change| change.record.as_str()))
            .bind(column(changes, |change| change.op.name()))
            .bind(column(changes, |change| change.data.as_deref()))
            .bind(column(changes, |change| change.stamps.as_str()))
            .bind(column(changes, |change| change.held.as_deref()))
            .fetch_one(&self.pool);
        let row = self.traced(traced::PUSH, statement).await?;
        let head: DateTime<Utc> = row.try_get("head")?;
        let previous: DateTime<Utc> = row.try_get("previous")?;
        let last = head.timestamp_micros();
        let first = last - (changes.len() as i64 - 1) * Cursor::STEP;
        Ok(Stored { first, last, previous: Some(previous.timestamp_micros()) })
    }

    /// The rows of a push that was stored before, in the order of its changes.
    pub async fn stored_before(&self, log: &Log, push: &Push) -> Result<Vec<StoredChange>, StoreError> {
        let ids = push.fingerprint.row_ids(&log.user_id, &log.app, push.changes.len());
        self.despite_loss(|| self.stored_rows(log, push, &ids)).await
    }

    async fn stored_rows(&self, log: &Log, push: &Push, ids: &[Uuid]) -> Result<Vec<StoredChange>, StoreError> {
        let statement = sqlx::query(STORED_BEFORE).bind(ids).bind(log.id.0).bind(&push.client).fetch_all(&self.pool);
        let rows = self.traced(traced::STORED_BEFORE, statement).await?;
        if rows.len() != ids.len() {
            return Err(StoreError::PartlyStored { expected: ids.len(), found: rows.len() });
        }
        rows.into_iter().map(read_change).collect()
    }
}

/// Reads a row with the columns created_at, table_name, record_id, op, data and stamps.
pub(super) fn read_change(row: PgRow) -> Result<StoredChange, StoreError> {
    let at: DateTime<Utc> = row.try_get("created_at")?;
    let op: &str = row.try_get("op")?;
    Ok(StoredChange {
        at: at.timestamp_micros(),
        table: row.try_get("table_name")?,
        record: row.try_get("record_id")?,
        op: Op::from_name(op).ok_or_else(|| StoreError::UnknownOp(op.to_owned()))?,
        data: row.try_get("data")?,
        stamps: row.try_get("stamps")?,
        held: None,
    })
}

/// The lower bound of what is not yet part of a log.
pub(super) fn forever() -> DateTime<Utc> {
    // Past any cursor, and within what timestamptz holds.
    time(253_402_300_799_000_000)
}
