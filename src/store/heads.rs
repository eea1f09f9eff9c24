//! What the reconciler asks: where the logs of connected users stand, and what changed in one of them.

use super::{Store, StoreError, time, traced};
use crate::protocol::{LogId, UserKey};
use sqlx::Row;
use sqlx::types::Uuid;
use sqlx::types::chrono::{DateTime, Utc};

/// Where one log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub user: UserKey,
    pub app: String,
    /// The position of the newest change.
    pub at: i64,
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

const CHANGED_TABLES: &str = "
select distinct s.log_id, c.table_name, c.client_id
from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) as s (log_id, after, upto)
join sync_changes c on c.log_id = s.log_id and c.created_at > s.after and c.created_at <= s.upto";

impl Store {
    /// Where all the logs of these users stand.
    pub async fn heads(&self, users: &[UserKey]) -> Result<Vec<Head>, StoreError> {
        self.despite_loss(|| self.try_heads(users)).await
    }

    async fn try_heads(&self, users: &[UserKey]) -> Result<Vec<Head>, StoreError> {
        let keys: Vec<Uuid> = users.iter().map(|user| user.0).collect();
        let rows = self.traced(traced::HEADS, sqlx::query(HEADS).bind(keys).fetch_all(&self.pool)).await?;
        rows.into_iter()
            .map(|row| {
                let at: DateTime<Utc> = row.try_get("head")?;
                let user = UserKey(row.try_get("user_key")?);
                Ok(Head { user, app: row.try_get("app_id")?, at: at.timestamp_micros() })
            })
            .collect()
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
