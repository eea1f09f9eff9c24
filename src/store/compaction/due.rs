//! Finds logs that have something to trim without scanning all of them. A push marks its log if the mark is missing
//! (`sync_heads.untrimmed_since`), so the index of the marks is written only once each time a log is trimmed.

use super::{CompactionError, Rules, Trimmed};
use crate::db::Micros;
use crate::protocol::{LogId, UserKey};
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

/// A log is due once its oldest untrimmed row has been older than the horizon for this fraction of the horizon: a log
/// that is written constantly is trimmed occasionally, not row by row.
const SLACK: u32 = 8;
/// Maximum number of logs looked up at once.
pub(super) const LOGS: i64 = 100;

/// A log, with its user and app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogName {
    /// Its id.
    pub id: LogId,
    /// The user.
    pub user: String,
    /// The app.
    pub app: String,
}

/// The trimming state of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogState {
    /// Rows up to here are trimmed.
    pub(super) trimmed_to: i64,
    /// Rows up to here are old enough. Never past the newest change: whatever is being stored right now comes after it
    /// and is examined later.
    pub(super) horizon: i64,
    /// The newest change.
    pub(super) head: i64,
    /// Where unpurged deletes start; `None` if there are none.
    pub(super) deleted_since: Option<i64>,
    /// Deletes up to here are purged; `None` if purging is disabled.
    pub(super) purge_before: Option<i64>,
    /// True if the log is due.
    pub(super) is_due: bool,
}

const DUE: &str = "
select log_id from (
    (select log_id, untrimmed_since as since from sync_heads
     where untrimmed_since < now() - $1::int8 * interval '1 millisecond' and log_id <> all($4)
     order by untrimmed_since limit $3)
    union all
    (select log_id, deleted_since from sync_heads
     where deleted_since < now() - $2::int8 * interval '1 millisecond' and deleted_since <= trimmed_to
       and trimmed_to > 'epoch' and log_id <> all($4)
     order by deleted_since limit $3)
) due group by log_id order by min(since)";

/// How long the most overdue log has been due, in seconds.
const LAG: &str = "
select (extract(epoch from now() - min(untrimmed_since)) - $1::int8 / 1000.0)::float8 from (
    select untrimmed_since from sync_heads where untrimmed_since is not null order by untrimmed_since limit 1
) oldest";

const STATE: &str = "
select h.trimmed_to, h.head, h.deleted_since,
       now() - $2::int8 * interval '1 millisecond' as horizon, now() - $3::int8 * interval '1 millisecond' as purge_before,
       coalesce(h.untrimmed_since < now() - $4::int8 * interval '1 millisecond', false)
           or coalesce(h.deleted_since < now() - $3::int8 * interval '1 millisecond', false)
              and h.deleted_since <= h.trimmed_to and h.trimmed_to > 'epoch' as is_due
from sync_heads h where h.log_id = $1";

/// Logs of a user, of an app or of all, ordered by id.
const LOGS_OF: &str = "
select log_id, user_id, app_id from sync_heads
where ($1::uuid is null or user_key = $1) and ($2::text is null or app_id = $2) and ($3::uuid is null or log_id > $3)
order by log_id limit $4";

impl Rules {
    /// Returns the age of the oldest untrimmed row at which its log is due.
    fn due_after(&self) -> Duration {
        self.after + self.after / SLACK
    }

    /// Returns an age by the database's clock, in milliseconds.
    fn age(&self, age: Duration) -> i64 {
        millis(age.saturating_sub(self.ahead))
    }
}

fn millis(time: Duration) -> i64 {
    time.as_millis().try_into().unwrap_or(i64::MAX)
}

fn micros(row: &Row, column: &str) -> Result<Option<i64>, tokio_postgres::Error> {
    Ok(row.try_get::<_, Option<Micros>>(column)?.map(|Micros(at)| at))
}

/// Returns the logs that have been due longest, except for `without`.
pub(super) async fn due(connection: &Client, rules: &Rules, without: &[Uuid]) -> Result<Vec<LogId>, CompactionError> {
    // A period that nobody will live to see the end of stands for never.
    let purge = rules.purge_after.map_or(i64::from(i32::MAX) * 1000, |after| rules.age(after));
    let rows = connection.query(DUE, &[&rules.age(rules.due_after()), &purge, &LOGS, &without]).await?;
    rows.iter().map(|row| Ok(LogId(row.try_get(0)?))).collect()
}

/// Returns how long the most overdue log has been due, in seconds; 0 if none is.
pub(super) async fn lag(connection: &Client, rules: &Rules) -> Result<f64, CompactionError> {
    let row = connection.query_one(LAG, &[&rules.age(rules.due_after())]).await?;
    Ok(row.try_get::<_, Option<f64>>(0)?.unwrap_or(0.0).max(0.0))
}

/// Returns the trimming state of a log; `None` if it has been erased.
pub(super) async fn state(connection: &Client, log: LogId, rules: &Rules) -> Result<Option<LogState>, CompactionError> {
    let (after, due) = (rules.age(rules.after), rules.age(rules.due_after()));
    let purge = rules.purge_after.map(|after| rules.age(after));
    let Some(row) = connection.query_opt(STATE, &[&log.0, &after, &purge, &due]).await? else { return Ok(None) };
    let head = micros(&row, "head")?.unwrap_or(0);
    Ok(Some(LogState {
        trimmed_to: micros(&row, "trimmed_to")?.unwrap_or(0),
        horizon: micros(&row, "horizon")?.unwrap_or(0).min(head),
        head,
        deleted_since: micros(&row, "deleted_since")?,
        purge_before: micros(&row, "purge_before")?,
        is_due: row.try_get("is_due")?,
    }))
}

/// Returns the logs after this one, ordered by id.
pub(in crate::store) async fn logs_of(
    connection: &Client,
    user: Option<UserKey>,
    app: Option<&str>,
    after: Option<LogId>,
) -> Result<Vec<LogName>, CompactionError> {
    let (user, after): (Option<Uuid>, Option<Uuid>) = (user.map(|user| user.0), after.map(|log| log.0));
    let rows = connection.query(LOGS_OF, &[&user, &app, &after, &LOGS]).await?;
    let read = |row: &Row| Ok(LogName { id: LogId(row.try_get(0)?), user: row.try_get(1)?, app: row.try_get(2)? });
    rows.iter().map(read).collect()
}

const FIRST_UNTRIMMED: &str = "select min(created_at) as first from sync_changes where log_id = $1 and created_at > $2";
const FIRST_DELETE: &str = "
select created_at from sync_changes
where log_id = $1 and created_at > $2 and (op = 'delete' or data ? 'deletedAt') order by created_at limit 1";
/// The difference between what is stored and what is counted, in one snapshot.
const DRIFT: &str = "
select c.changes - h.stored_changes as changes, c.bytes - h.stored_bytes as bytes
from sync_heads h, (select count(*) as changes, coalesce(sum(size), 0)::int8 as bytes from sync_changes where log_id = $1) c
where h.log_id = $1";

/// Time limit for counting a log's rows. They are counted now because this is when rows stored by other programs are
/// noticed; for a log with very many rows, the numbers from the trimming itself are used instead.
const COUNTING: &str = "savepoint counting; set local statement_timeout = '10s'";

/// Returns the statement that ends a log's trimming, to be sent with the commit: it sets where untrimmed rows start,
/// and updates the log's counts. `purged`: deletes up to there are purged.
pub(super) async fn closing(
    connection: &Client,
    log: LogId,
    state: &LogState,
    purged: Option<i64>,
    trimmed: Trimmed,
) -> Result<String, CompactionError> {
    let until = state.horizon;
    let first = micros(&connection.query_one(FIRST_UNTRIMMED, &[&log.0, &Micros(until)]).await?, "first")?;
    let deleted = match purged {
        // Another replica may purge, and looks from the position stored here.
        None if state.deleted_since.is_some() => String::new(),
        None => {
            let first = first_delete(connection, log, state.trimmed_to).await?;
            format!(", deleted_since = coalesce(h.deleted_since, {})", literal(first))
        }
        Some(until) => format!(", deleted_since = {}", literal(first_delete(connection, log, until).await?)),
    };
    let (changes, bytes) = drift(connection, log, trimmed).await?;
    Ok(format!(
        "update sync_heads h set trimmed_to = greatest(h.trimmed_to, {until}), trim_horizon = greatest(h.trim_horizon, {until}),
             untrimmed_since = case when h.head > {until} then coalesce({first}, h.head) end,
             stored_changes = h.stored_changes + {changes}, stored_bytes = h.stored_bytes + {bytes}{deleted}
         where h.log_id = '{}'",
        log.0,
        until = literal(Some(until)),
        first = literal(first),
    ))
}

/// Returns the position of the first delete after this one.
async fn first_delete(connection: &Client, log: LogId, after: i64) -> Result<Option<i64>, CompactionError> {
    let first = connection.query_opt(FIRST_DELETE, &[&log.0, &Micros(after)]).await?;
    Ok(first.map(|row| micros(&row, "created_at")).transpose()?.flatten())
}

/// Returns the corrections of a log's counts: rows, bytes.
async fn drift(connection: &Client, log: LogId, trimmed: Trimmed) -> Result<(i64, i64), CompactionError> {
    connection.batch_execute(COUNTING).await?;
    let counted = connection.query_opt(DRIFT, &[&log.0]).await;
    let (drift, end) = match counted {
        Ok(Some(row)) => ((row.try_get(0)?, row.try_get(1)?), "release counting"),
        Ok(None) => ((0, 0), "release counting"),
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
            let taken = |number: u64| -i64::try_from(number).unwrap_or(0);
            ((taken(trimmed.gone), taken(trimmed.bytes)), "rollback to counting")
        }
        Err(error) => return Err(error.into()),
    };
    connection.batch_execute(end).await?;
    Ok(drift)
}

/// Makes a due log due again after a pause, for all replicas. Does not wait if another session holds its head.
pub(super) async fn postpone(
    connection: &Client,
    log: LogId,
    rules: &Rules,
    pause: Duration,
) -> Result<(), CompactionError> {
    let due = rules.age(rules.due_after());
    let since = millis(pause).saturating_sub(due);
    connection.batch_execute("begin; set local lock_timeout = '100ms'").await?;
    let postpone = "
        update sync_heads set untrimmed_since = now() + $2::int8 * interval '1 millisecond'
        where log_id = $1 and untrimmed_since < now() - $3::int8 * interval '1 millisecond'";
    connection.execute(postpone, &[&log.0, &since, &due]).await?;
    Ok(connection.batch_execute("commit").await?)
}

/// Returns the statement that advances a log's trimmed position, with its horizon: the records of a piece lose
/// everything that old, wherever it is.
pub(super) fn advance(log: LogId, until: i64, horizon: i64) -> String {
    let (until, horizon) = (literal(Some(until)), literal(Some(horizon)));
    format!(
        "update sync_heads set trimmed_to = greatest(trimmed_to, {until}), trim_horizon = greatest(trim_horizon, {horizon})
         where log_id = '{}'",
        log.0
    )
}

/// Formats a position as SQL. Written out where possible rather than computed in SQL: adding an interval depends on the
/// time zone, and Citus does not forward conditions that contain computed values.
fn literal(micros: Option<i64>) -> String {
    let written = |micros: &i64| chrono::DateTime::from_timestamp_micros(*micros).filter(|_| *micros >= 0);
    match (micros, micros.as_ref().and_then(written)) {
        (None, _) => "null::timestamptz".to_owned(),
        (_, Some(at)) => format!("timestamptz '{}'", at.format("%Y-%m-%d %H:%M:%S%.6f+00")),
        (Some(micros), None) => format!("(timestamptz 'epoch' + {micros} * interval '1 microsecond')"),
    }
}
