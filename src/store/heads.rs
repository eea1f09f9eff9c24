//! What the reconciler asks: where the logs of connected users stand, and what changed in one of them.

use super::{Store, StoreError, traced};
use crate::db::{Micros, Sql};
use crate::protocol::{LogId, UserKey};
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

/// Where one log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The user.
    pub user: UserKey,
    /// The app.
    pub app: String,
    /// The position of the newest change.
    pub at: i64,
}

/// A log in which something was stored recently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentHead {
    /// Where the log stands.
    pub head: Head,
    /// Where what is recent begins, by the database's clock.
    pub since: i64,
}

/// A part of a log: after one position, up to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// The log.
    pub log: LogId,
    /// After this position, in microseconds.
    pub after: i64,
    /// Up to this one, in microseconds.
    pub last: i64,
}

/// A table of a log in which a device changed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedTable {
    /// The log.
    pub log: LogId,
    /// The table.
    pub table: String,
    /// The device.
    pub client: String,
}

static HEADS: Sql = Sql {
    text: "
select user_key, app_id, head from sync_heads where user_key = any($1)
union all
select user_key, app_id, head from sync_erased where user_key = any($1)",
    types: &[Type::UUID_ARRAY],
};

static RECENT_HEADS: Sql = Sql {
    text: "
select h.user_key, h.app_id, h.head, now() - u.age as since
from (select user_key, millis * interval '1 millisecond' as age
      from unnest($1::uuid[], $2::int8[]) as u (user_key, millis)) u
join sync_heads h on h.user_key = u.user_key
where h.head > now() - u.age",
    types: &[Type::UUID_ARRAY, Type::INT8_ARRAY],
};

static CHANGED_TABLES: Sql = Sql {
    text: "
select distinct s.log_id, c.table_name, c.client_id
from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) as s (log_id, after, last)
join sync_changes c on c.log_id = s.log_id and c.created_at > s.after and c.created_at <= s.last
union
select s.log_id, unnest(e.tables), ''
from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) as s (log_id, after, last)
join sync_erased e on e.log_id = s.log_id and e.head > s.after and e.head <= s.last",
    types: &[Type::UUID_ARRAY, Type::TIMESTAMPTZ_ARRAY, Type::TIMESTAMPTZ_ARRAY],
};

/// The statements here, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![("heads", &HEADS), ("recent heads", &RECENT_HEADS), ("changed tables", &CHANGED_TABLES)]
}

impl Store {
    /// Where all the logs of these users stand.
    pub async fn heads(&self, users: &[UserKey]) -> Result<Vec<Head>, StoreError> {
        let keys: Vec<Uuid> = users.iter().map(|user| user.0).collect();
        let rows = self.traced(traced::HEADS, &HEADS, &[&keys]).await?;
        Ok(rows.iter().map(read_head).collect::<Result<_, _>>()?)
    }

    /// Those logs of these users whose newest change is not older than is said for each user.
    pub async fn recent_heads(&self, users: &[(UserKey, Duration)]) -> Result<Vec<RecentHead>, StoreError> {
        let keys: Vec<Uuid> = users.iter().map(|(user, _)| user.0).collect();
        let ages: Vec<i64> = users.iter().map(|(_, age)| age.as_millis() as i64).collect();
        let rows = self.traced(traced::RECENT_HEADS, &RECENT_HEADS, &[&keys, &ages]).await?;
        rows.into_iter()
            .map(|row| {
                let Micros(since) = row.try_get(3)?;
                Ok(RecentHead { head: read_head(&row)?, since })
            })
            .collect()
    }

    /// The tables changed in these ranges, with who changed them.
    pub async fn changed_tables(&self, ranges: &[LogRange]) -> Result<Vec<ChangedTable>, StoreError> {
        let logs: Vec<Uuid> = ranges.iter().map(|range| range.log.0).collect();
        let after: Vec<_> = ranges.iter().map(|range| Micros(range.after)).collect();
        let last: Vec<_> = ranges.iter().map(|range| Micros(range.last)).collect();
        let rows = self.traced(traced::CHANGED_TABLES, &CHANGED_TABLES, &[&logs, &after, &last]).await?;
        rows.into_iter()
            .map(|row| {
                Ok(ChangedTable { log: LogId(row.try_get(0)?), table: row.try_get(1)?, client: row.try_get(2)? })
            })
            .collect()
    }
}

fn read_head(row: &Row) -> Result<Head, tokio_postgres::Error> {
    let Micros(at) = row.try_get(2)?;
    Ok(Head { user: UserKey(row.try_get(0)?), app: row.try_get(1)?, at })
}
