//! What limits are checked against: the number of a user's apps, and the bytes stored.

use super::{StoreError, traced};
use crate::db::{Pool, Sql};
use crate::protocol::{Log, UserKey};
use tokio_postgres::types::Type;

/// The apps of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppCount {
    /// True if the app in question is one of them.
    pub has_this: bool,
    /// Their number, counted only up to the requested maximum.
    pub count: u32,
}

static APPS: Sql = Sql {
    text: "
select exists (select from sync_heads where log_id = $1) as has_this,
       (select count(*) from (select from sync_heads where user_key = $2 limit $3) h) as apps",
    types: &[Type::UUID, Type::UUID, Type::INT8],
};

/// As counted by the heads; what other programs insert or delete is included once the log is trimmed.
static STORED_BYTES: Sql = Sql {
    text: "select coalesce(sum(stored_bytes), 0)::int8 from sync_heads where user_key = $1",
    types: &[Type::UUID],
};

/// Returns the statements of this file, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![("apps", &APPS), ("stored bytes", &STORED_BYTES)]
}

/// Reads what limits are checked against.
#[derive(Clone, Debug)]
pub struct Quotas {
    pool: Pool,
}

impl Quotas {
    pub(super) fn new(pool: Pool) -> Quotas {
        Quotas { pool }
    }

    /// Returns whether a log exists, and how many its user has, counted up to `most`.
    pub async fn apps(&self, log: &Log, most: u32) -> Result<AppCount, StoreError> {
        let rows = traced::run(&self.pool, traced::APPS, &APPS, &[&log.id.0, &log.user.0, &i64::from(most)]).await?;
        let Some(row) = rows.first() else { return Ok(AppCount { has_this: false, count: 0 }) };
        let count: i64 = row.try_get(1)?;
        Ok(AppCount { has_this: row.try_get(0)?, count: count as u32 })
    }

    /// Returns the approximate number of bytes of changes stored for a user.
    pub async fn stored_bytes(&self, user: UserKey) -> Result<u64, StoreError> {
        let rows = traced::run(&self.pool, traced::STORED_BYTES, &STORED_BYTES, &[&user.0]).await?;
        let bytes: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
        Ok(bytes.max(0) as u64)
    }
}
