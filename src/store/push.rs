//! A push on its way into the log: which statement stores it, and who is told (G1).

use super::batch::Entry;
use super::{Store, StoreError, time, traced};
use crate::defects::Defect;
use crate::protocol::Log;
use crate::protocol::merge::StoredChange;
use crate::protocol::push::{NewChange, Op, Push};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;
use sqlx::types::chrono::{DateTime, Utc};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Changes and bytes with which a push still shares a statement with others.
const MAX_SHARED_CHANGES: usize = 64;
const MAX_SHARED_BYTES: usize = 64 << 10;

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

/// What is told once a push is stored.
type Announce = Box<dyn FnOnce(Stored) + Send>;

/// A push on its way into the log.
pub(super) struct Job {
    pub(super) entry: Entry,
    announce: Announce,
    answer: oneshot::Sender<Result<Stored, StoreError>>,
    /// Whether it is being stored.
    begun: Arc<AtomicBool>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// How a push ended, for whoever waits for it.
pub(super) struct Outcome {
    answered: oneshot::Receiver<Result<Stored, StoreError>>,
    begun: Arc<AtomicBool>,
}

impl Outcome {
    /// Waits for the end of the push, but not longer than this for its beginning.
    async fn wait(mut self, patience: Duration) -> Result<Stored, StoreError> {
        let outcome = match tokio::time::timeout(patience, &mut self.answered).await {
            Ok(outcome) => outcome,
            Err(_) if self.begun.load(Ordering::Relaxed) => self.answered.await,
            Err(_) => return Err(StoreError::TurnTimeout),
        };
        outcome.unwrap_or(Err(StoreError::Abandoned))
    }
}

impl Job {
    /// A push with the ids of its rows, and where its outcome will be.
    pub(super) fn new(log: Log, push: Arc<Push>, ids: Vec<Uuid>, announce: Announce) -> (Job, Outcome) {
        let (answer, answered) = oneshot::channel();
        let begun = Arc::<AtomicBool>::default();
        let outcome = Outcome { answered, begun: begun.clone() };
        (Job { entry: Entry { log, push, ids }, announce, answer, begun }, outcome)
    }

    /// Whether it may share a statement with others: it takes hardly longer than the commit.
    fn is_small(&self) -> bool {
        let changes = &self.entry.push.changes;
        let bytes = |change: &NewChange| change.data.as_ref().map_or(0, String::len) + change.stamps.len();
        changes.len() <= MAX_SHARED_CHANGES && changes.iter().map(bytes).sum::<usize>() <= MAX_SHARED_BYTES
    }

    /// Notes that it is being stored from now on; false if nobody waits for it any more.
    pub(super) fn begin(&self) -> bool {
        self.begun.store(true, Ordering::Relaxed);
        !self.answer.is_closed()
    }

    /// Announces what is stored, and answers whoever waits.
    pub(super) fn finish(self, stored: Result<Stored, StoreError>) {
        if let Ok(stored) = stored {
            (self.announce)(stored);
        }
        // Whoever has gone meanwhile will send it again, and it will be recognized.
        let _ = self.answer.send(stored);
    }
}

impl Store {
    /// Stores the changes of a push, of which there must be some.
    ///
    /// A push that is stored already is found by the ids of its rows, and stays as it is. What is stored is announced
    /// at once, even if the caller has gone meanwhile.
    pub async fn push(
        &self,
        log: &Log,
        push: Arc<Push>,
        announce: impl FnOnce(Stored) + Send + 'static,
    ) -> Result<Stored, StoreError> {
        let ids = if Defect::NoRetryDetection.is_on() {
            push.changes.iter().map(|_| Uuid::from_u128(rand::random())).collect()
        } else {
            push.fingerprint.row_ids(&log.user_id, &log.app, push.changes.len())
        };
        let (job, outcome) = Job::new(log.clone(), push, ids, Box::new(announce));
        if job.is_small() && !self.turns.is_taken(log.id) && !Defect::NoHeadRow.is_on() {
            self.enqueue(job);
        } else {
            self.store_alone(job);
        }
        traced::awaited(traced::PUSH, outcome.wait(self.patience)).await
    }

    /// Stores a push in a statement of its own.
    pub(super) fn store_alone(&self, job: Job) {
        let store = self.clone();
        tokio::spawn(async move {
            // Turns order the pushes of one replica, as the head row's lock orders those of all.
            let turn = match Defect::NoHeadRow.is_on() {
                true => None,
                false => Some(store.turns.take(job.entry.log.id, store.patience).await),
            };
            let stored = match turn {
                Some(None) => Err(StoreError::TurnTimeout),
                _ if !job.begin() => return,
                _ => store.despite_loss(|| store.try_push(&job.entry)).await,
            };
            job.finish(stored);
        });
    }

    async fn try_push(&self, entry: &Entry) -> Result<Stored, StoreError> {
        match self.insert(&[entry]).await.map(|stored| stored.into_iter().next().flatten()) {
            Ok(Some(stored)) => return Ok(stored),
            Ok(None) => {}
            // The first attempt has been stored by somebody else meanwhile.
            Err(error) if error.as_database_error().and_then(|e| e.constraint()) == Some("sync_changes_pkey") => {}
            Err(error) => return Err(error.into()),
        }
        let rows = self.stored_rows(&entry.log, &entry.push, &entry.ids).await?;
        let positions = || rows.iter().map(|row| row.at);
        Ok(Stored {
            first: positions().min().unwrap_or_default(),
            last: positions().max().unwrap_or_default(),
            previous: None,
        })
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
