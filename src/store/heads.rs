//! What the reconciler asks: where the logs of connected users stand, and what changed in one of them.

use super::{Store, StoreError, time, traced};
use crate::protocol::{LogId, UserKey};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;
use sqlx::types::chrono::{DateTime, Utc};
use std::time::Duration;

/// Where one log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub user: UserKey,
    pub app: String,
    /// The position of the newest change.
    pub at: i64,
}

/// A log in which something was stored recently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentHead {
    pub head: Head,
    /// Where what is recent begins, by the database's clock.
    pub since: i64,
}

/// A part of a log: after one position, up to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStretch {
    pub log: LogId,
    pub after: i64,
    pub upto: i64,
}

/// A table of a log in which a device changed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedTable {
    pub log: LogId,
    pub table: String,
    pub client: String,
}

const HEADS: &str = "select user_key, app_id, head from sync_heads where user_key = any($1)";

const RECENT_HEADS: &str = "
select h.user_key, h.app_id, h.head, now() - u.age as since
from (select user_key, millis * interval '1 millisecond' as age
      from unnest($1::uuid[], $2::int8[]) as u (user_key, millis)) u
join sync_heads h on h.user_key = u.user_key
where h.head > now() - u.age";

const CHANGED_TABLES: &str = "
select distinct s.log_id, c.table_name, c.client_id
from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) as s (log_id, after, upto)
join sync_changes c on c.log_id = s.log_id and c.created_at > s.after and c.created_at <= s.upto";

impl Store {
    /// Where all the logs of these users stand.
    pub async fn heads(&self, users: &[UserKey]) -> Result<Vec<Head>, StoreError> {
        self.despite_loss(|| self.try_heads(users)).await
    }

    /// Those logs of these users whose newest change is not older than is said for each user.
    pub async fn recent_heads(&self, users: &[(UserKey, Duration)]) -> Result<Vec<RecentHead>, StoreError> {
        self.despite_loss(|| self.try_recent_heads(users)).await
    }

    async fn try_recent_heads(&self, users: &[(UserKey, Duration)]) -> Result<Vec<RecentHead>, StoreError> {
        let keys: Vec<Uuid> = users.iter().map(|(user, _)| user.0).collect();
        let ages: Vec<i64> = users.iter().map(|(_, age)| age.as_millis() as i64).collect();
        let statement = sqlx::query(RECENT_HEADS).bind(keys).bind(ages).fetch_all(&self.pool);
        let rows = self.traced(traced::RECENT_HEADS, statement).await?;
        rows.into_iter()
            .map(|row| {
                let since: DateTime<Utc> = row.try_get("since")?;
                Ok(RecentHead { head: read_head(&row)?, since: since.timestamp_micros() })
            })
            .collect()
    }

    async fn try_heads(&self, users: &[UserKey]) -> Result<Vec<Head>, StoreError> {
        let keys: Vec<Uuid> = users.iter().map(|user| user.0).collect();
        let rows = self.traced(traced::HEADS, sqlx::query(HEADS).bind(keys).fetch_all(&self.pool)).await?;
        Ok(rows.iter().map(read_head).collect::<Result<_, _>>()?)
    }

    /// The tables changed in these stretches, with who changed them.
    pub async fn changed_tables(&self, stretches: &[LogStretch]) -> Result<Vec<ChangedTable>, StoreError> {
        self.despite_loss(|| self.try_changed_tables(stretches)).await
    }

    async fn try_changed_tables(&self, stretches: &[LogStretch]) -> Result<Vec<ChangedTable>, StoreError> {
        let logs: Vec<Uuid> = stretches.iter().map(|stretch| stretch.log.0).collect();
        let after: Vec<_> = stretches.iter().map(|stretch| time(stretch.after)).collect();
        let upto: Vec<_> = stretches.iter().map(|stretch| time(stretch.upto)).collect();
        let statement = sqlx::query(CHANGED_TABLES).bind(logs).bind(after).bind(upto).fetch_all(&self.pool);
        let rows = self.traced(traced::CHANGED_TABLES, statement).await?;
        rows.into_iter()
            .map(|row| {
                let log = LogId(row.try_get("log_id")?);
                Ok(ChangedTable { log, table: row.try_get("table_name")?, client: row.try_get("client_id")? })
            })
            .collect()
    }
}

fn read_head(row: &PgRow) -> Result<Head, sqlx::Error> {
    let at: DateTime<Utc> = row.try_get("head")?;
    Ok(Head { user: UserKey(row.try_get("user_key")?), app: row.try_get("app_id")?, at: at.timestamp_micros() })
}
