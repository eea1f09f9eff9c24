//! Data lifecycle: usage, export and erasure, for commands, each on its own connection.

pub use super::logged_change::LoggedChange;

use super::compaction::{CompactionError, LogName, connect_command, logs_of, read_change, search_in};
use super::schema::check_for_command;
use super::why::{Field, Limits, Losers, Winners};
use crate::config::DatabaseConfig;
use crate::db::{Micros, Session};
use crate::protocol::merge::{Rank, StoredChange};
use crate::protocol::{Cursor, Log, UserKey};
use futures_util::TryStreamExt;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::pin::pin;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// The storage used by one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The user.
    pub user: String,
    /// The app.
    pub app: String,
    /// Changes in the log.
    pub changes: i64,
    /// Bytes of values, stamps and other members, as in all fields below.
    pub bytes: i64,
    /// Records in the log.
    pub records: i64,
    /// Bytes that are not needed by the records' current state.
    pub garbage: i64,
    /// Trimmed changes kept in the history.
    pub history_changes: i64,
    /// Bytes of the history.
    pub history_bytes: i64,
}

/// The current state of a record: the winning write of each field.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The table.
    pub table: String,
    /// The record.
    pub id: String,
    /// The rank and JSON value of each field.
    pub fields: BTreeMap<String, (Rank, String)>,
}

impl Record {
    /// Returns true if its `deletedAt` marks it as deleted.
    pub fn is_deleted(&self) -> bool {
        self.fields.get("deletedAt").is_some_and(|(_, value)| value != "null")
    }

    /// Applies the record's next row.
    fn note(&mut self, change: &StoredChange) -> Result<(), CompactionError> {
        for write in change.fields()? {
            let rank = (write.stamp, change.at);
            if self.fields.get(&*write.name).is_none_or(|(best, _)| rank >= *best) {
                self.fields.insert(write.name.into_owned(), (rank, write.value.into_owned()));
            }
        }
        Ok(())
    }
}

/// The largest logs, up to a limit.
const LARGEST: &str = "
select log_id from (select log_id, sum(size) as bytes from sync_changes group by log_id order by bytes desc limit $1) t";
/// Queried for each log separately: Citus does not call a function that reads tables for the rows of another.
const USAGE_OF: &str = "select u.* from sync_usage_of($1) u";

macro_rules! changes_of {
    ($from:literal) => {
        concat!(
            "select id, created_at, table_name, record_id, op, data::text as data, field_timestamps::text as stamps,
                    extra::text as extra, client_id, ",
            $from
        )
    };
}

const LOG: &str =
    changes_of!("null::timestamptz as trimmed_at from sync_changes where log_id = $1 order by created_at");
const HISTORY: &str = changes_of!("trimmed_at from sync_history where log_id = $1 order by created_at, trimmed_at");
const BY_RECORD: &str = changes_of!(
    "null::timestamptz as trimmed_at from sync_changes where log_id = $1 order by table_name, record_id, created_at"
);
const RECORD: &str = changes_of!(
    "null::timestamptz as trimmed_at from sync_changes
     where log_id = $1 and table_name = $2 and record_id = $3 order by created_at"
);
const HISTORY_OF_RECORD: &str = changes_of!(
    "trimmed_at from sync_history where log_id = $1 and table_name = $2 and record_id = $3 order by created_at, trimmed_at"
);

fn read(row: &Row) -> Result<LoggedChange, CompactionError> {
    Ok(LoggedChange {
        change: StoredChange { extra: row.try_get("extra")?, ..read_change(row)? },
        client: row.try_get("client_id")?,
        trimmed_at: row.try_get::<_, Option<Micros>>("trimmed_at")?.map(|Micros(at)| at),
    })
}

fn read_usage(row: &Row) -> Result<Usage, CompactionError> {
    Ok(Usage {
        user: row.try_get("user_id")?,
        app: row.try_get("app_id")?,
        changes: row.try_get("changes")?,
        bytes: row.try_get("bytes")?,
        records: row.try_get("records")?,
        garbage: row.try_get("garbage")?,
        history_changes: row.try_get("history_changes")?,
        history_bytes: row.try_get("history_bytes")?,
    })
}

/// A connection for a command, without time limits.
pub struct Archive(Session);

impl Archive {
    /// Connects to all buckets as one, to be read together.
    pub async fn connect(database: &DatabaseConfig, command: &str) -> Result<Archive, CompactionError> {
        Ok(Archive(connect_command(database, &format!("mana-sync {command}"), None).await?))
    }

    /// Connects to a user's bucket.
    pub async fn connect_for(user: &str, database: &DatabaseConfig, command: &str) -> Result<Archive, CompactionError> {
        let user = Some(UserKey::of(user));
        Ok(Archive(connect_command(database, &format!("mana-sync {command}"), user).await?))
    }

    /// Starts a snapshot for everything read from here on; it lasts as long as the consumer needs.
    async fn begin_reading(&mut self) -> Result<(), CompactionError> {
        let begin =
            "begin isolation level repeatable read read only; set local idle_in_transaction_session_timeout = 0";
        Ok(self.0.batch_execute(begin).await?)
    }

    async fn end_reading(&mut self) -> Result<(), CompactionError> {
        Ok(self.0.batch_execute("commit").await?)
    }

    /// Returns the usage of the largest logs, largest first. Examines one bucket after another.
    pub async fn usage(&mut self, top: i64) -> Result<Vec<Usage>, CompactionError> {
        self.0.batch_execute("set enable_seqscan = on").await?;
        let schemas = check_for_command(&self.0).await?.schemas();
        if schemas.is_empty() {
            return self.usage_here(top).await;
        }
        let mut all = Vec::new();
        for schema in schemas {
            self.0.batch_execute(&search_in(&schema)).await?;
            all.extend(self.usage_here(top).await?);
        }
        all.sort_by_key(|usage| Reverse(usage.bytes));
        all.truncate(usize::try_from(top).unwrap_or_default());
        Ok(all)
    }

    async fn usage_here(&self, top: i64) -> Result<Vec<Usage>, CompactionError> {
        let mut all = Vec::new();
        for log in self.0.query(LARGEST, &[&top]).await? {
            let log: Uuid = log.try_get(0)?;
            for row in self.0.query(USAGE_OF, &[&log]).await? {
                all.push(read_usage(&row)?);
            }
        }
        all.sort_by_key(|usage| Reverse(usage.bytes));
        Ok(all)
    }

    /// Returns the logs of a user, or the log of one app.
    pub async fn logs(&mut self, user: &str, app: Option<&str>) -> Result<Vec<LogName>, CompactionError> {
        let (key, mut all) = (UserKey::of(user), Vec::<LogName>::new());
        loop {
            let after = all.last().map(|log| log.id);
            let some = logs_of(&self.0, Some(key), app, after).await?;
            if some.is_empty() {
                all.sort_by(|a, b| a.app.cmp(&b.app));
                return Ok(all);
            }
            all.extend(some);
        }
    }

    /// Passes on the current records of some logs, one by one, from a single snapshot.
    pub async fn records<E: From<CompactionError>>(
        &mut self,
        logs: &[LogName],
        mut each: impl FnMut(&LogName, &Record) -> Result<(), E>,
    ) -> Result<(), E> {
        self.begin_reading().await?;
        for log in logs {
            let mut current: Option<Record> = None;
            let rows = self.0.query_raw(BY_RECORD, [log.id.0]).await.map_err(CompactionError::from)?;
            let mut rows = pin!(rows);
            while let Some(row) = rows.try_next().await.map_err(CompactionError::from)? {
                let change = read(&row)?.change;
                let is_same = |record: &Record| (&record.table, &record.id) == (&change.table, &change.record);
                if !current.as_ref().is_some_and(is_same) {
                    if let Some(record) = current.take() {
                        each(log, &record)?;
                    }
                    let (table, id) = (change.table.clone(), change.record.clone());
                    current = Some(Record { table, id, ..Record::default() });
                }
                if let Some(record) = &mut current {
                    record.note(&change)?;
                }
            }
            if let Some(record) = current {
                each(log, &record)?;
            }
        }
        Ok(self.end_reading().await?)
    }

    /// Passes on the rows of some logs in order, then their trimmed rows from the history, from a single snapshot.
    pub async fn changes<E: From<CompactionError>>(
        &mut self,
        logs: &[LogName],
        mut each: impl FnMut(&LogName, &LoggedChange) -> Result<(), E>,
    ) -> Result<(), E> {
        self.begin_reading().await?;
        for log in logs {
            for statement in [LOG, HISTORY] {
                let rows = self.0.query_raw(statement, [log.id.0]).await.map_err(CompactionError::from)?;
                let mut rows = pin!(rows);
                while let Some(row) = rows.try_next().await.map_err(CompactionError::from)? {
                    each(log, &read(&row)?)?;
                }
            }
        }
        Ok(self.end_reading().await?)
    }

    /// Explains the current values of a record's fields, or of one field; `None` if nothing is stored for the record.
    pub async fn why(
        &mut self,
        record: (&Log, &str, &str),
        field: Option<&str>,
        limits: Limits,
    ) -> Result<Option<Vec<Field>>, CompactionError> {
        self.begin_reading().await?;
        let mut winners = Winners::new(field);
        self.each_of_record(record, |change| winners.note(change)).await?;
        if !winners.is_any() {
            self.end_reading().await?;
            return Ok(None);
        }
        let mut losers = Losers::new(winners, limits);
        self.each_of_record(record, |change| losers.note(change)).await?;
        self.end_reading().await?;
        Ok(Some(losers.fields()))
    }

    /// Passes on the stored rows of one record, then its trimmed rows from the history.
    async fn each_of_record(
        &self,
        (log, table, record): (&Log, &str, &str),
        mut each: impl FnMut(&LoggedChange) -> Result<(), CompactionError>,
    ) -> Result<(), CompactionError> {
        let parameters: [&(dyn ToSql + Sync); 3] = [&log.id.0, &table, &record];
        for statement in [RECORD, HISTORY_OF_RECORD] {
            let mut rows = pin!(self.0.query_raw(statement, parameters.iter().copied()).await?);
            while let Some(row) = rows.try_next().await? {
                each(&read(&row)?)?;
            }
        }
        Ok(())
    }

    /// Erases a user in any bucket: changes, trimmed changes, logs, and rows in the previous server's table. Returns
    /// the number of rows. Requires a connection to all buckets: from its own schema, a bucket does not see that table.
    pub async fn erase(&mut self, user: &str) -> Result<i64, CompactionError> {
        Ok(self.0.query_one("select sync_erase($1)", &[&user]).await?.try_get(0)?)
    }
}

/// Formats a position for people, which is also how cursors are written.
pub fn position(micros: i64) -> String {
    Cursor::after(micros).to_string()
}
