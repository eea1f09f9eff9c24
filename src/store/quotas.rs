//! What limits are held against: how many apps a user has, and how much is stored.

use super::{Store, StoreError};
use crate::protocol::{Log, UserKey};
use sqlx::Row;

/// A user's apps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppCount {
    /// Whether the app that was asked about is one of them.
    pub has_this: bool,
    /// How many there are; no more than asked for are counted.
    pub count: u32,
}

const APPS: &str = "
select exists (select from sync_heads where log_id = $1) as has_this,
       (select count(*) from (select from sync_heads where user_key = $2 limit $3) h) as apps";

const STORED_BYTES: &str = "
select coalesce(sum(c.size), 0)::int8 as bytes
from sync_heads h join sync_changes c on c.log_id = h.log_id
where h.user_key = $1";

impl Store {
    /// Whether a log is there, and how many its user has, counted up to `most`.
    pub async fn apps(&self, log: &Log, most: u32) -> Result<AppCount, StoreError> {
        let ask = async || {
            let statement = sqlx::query(APPS).bind(log.id.0).bind(log.user.0).bind(i64::from(most));
            let row = statement.fetch_one(&self.pool).await?;
            let count: i64 = row.try_get("apps")?;
            Ok(AppCount { has_this: row.try_get("has_this")?, count: count as u32 })
        };
        self.despite_loss(ask).await
    }

    /// Bytes of the changes that are stored of a user.
    pub async fn stored_bytes(&self, user: UserKey) -> Result<u64, StoreError> {
        let ask = async || {
            let row = sqlx::query(STORED_BYTES).bind(user.0).fetch_one(&self.pool).await?;
            let bytes: i64 = row.try_get("bytes")?;
            Ok(bytes as u64)
        };
        self.despite_loss(ask).await
    }
}
