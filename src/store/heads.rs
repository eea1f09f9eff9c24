//! Queries of the reconciler: the heads of connected users' logs, and what changed in one of them. Every result is
//! bounded, whatever is stored (G6).

use super::{StoreError, traced};
use crate::db::{Micros, Pool, Sql};
use crate::protocol::{LogId, UserKey};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// Maximum number of logs per user; for users with more, those most recently written to.
pub const MAX_LOGS: usize = 1_000;
/// Maximum number of changes read to find what changed in several ranges, and minimum for each range.
const CHANGES_PER_QUERY: usize = 20_000;
const CHANGES_PER_RANGE: usize = 20;

/// The head of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The user.
    pub user: UserKey,
    /// The app.
    pub app: String,
    /// The position of the newest change.
    pub at: i64,
}

/// The heads of users' logs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heads<H> {
    /// The heads of all users not listed in `too_many`.
    pub heads: Vec<H>,
    /// Users with more than [`MAX_LOGS`] logs, none of which is among the heads; they must be queried one by one.
    pub too_many: Vec<UserKey>,
}

/// A log in which something was stored recently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentHead {
    /// The log's head.
    pub head: Head,
    /// The start of the recent period, by the database's clock.
    pub since: i64,
}

/// A range of a log: after one position, up to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogRange {
    /// The log.
    pub log: LogId,
    /// Exclusive start, in microseconds.
    pub after: i64,
    /// Inclusive end, in microseconds.
    pub last: i64,
}

/// The changes in a range, or in the first part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeChanges {
    /// Ordered by the position of the first change.
    pub tables: Vec<ChangedTable>,
    /// The position up to which the range was read; its end, if all of it was.
    pub until: i64,
}

/// A table of a log in which a device changed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedTable {
    /// The table.
    pub table: String,
    /// The device.
    pub client: String,
    /// The position of the first change, in microseconds.
    pub first: i64,
}

static HEADS: Sql = Sql {
    text: "
select u.user_key, h.app_id, h.head
from unnest($1::uuid[]) as u (user_key)
cross join lateral (select app_id, head from sync_heads where user_key = u.user_key limit $2) h
union all
select u.user_key, e.app_id, e.head
from unnest($1::uuid[]) as u (user_key)
cross join lateral (select app_id, head from sync_erased where user_key = u.user_key limit $2) e",
    types: &[Type::UUID_ARRAY, Type::INT8],
};

static HEADS_OF_LOGS: Sql = Sql {
    text: "
select user_key, app_id, head from sync_heads where log_id = any($1)
union all
select user_key, app_id, head from sync_erased where log_id = any($1)",
    types: &[Type::UUID_ARRAY],
};

static NEWEST_HEADS: Sql = Sql {
    text: "
select * from (
    select user_key, app_id, head from sync_heads where user_key = $1
    union all
    select user_key, app_id, head from sync_erased where user_key = $1
) h
order by head desc limit $2",
    types: &[Type::UUID, Type::INT8],
};

// A user with too many logs is reported by a single row.
static RECENT_HEADS: Sql = Sql {
    text: "
select u.user_key, h.app_id, h.head, now() - u.age as since, h.logs
from (select user_key, millis * interval '1 millisecond' as age
      from unnest($1::uuid[], $2::int8[]) as u (user_key, millis)) u
cross join lateral (
    select app_id, head, count(*) over () as logs, row_number() over () as number
    from (select app_id, head from sync_heads where user_key = u.user_key limit $3) h
) h
where h.head > now() - u.age or (h.logs = $3 and h.number = 1)",
    types: &[Type::UUID_ARRAY, Type::INT8_ARRAY, Type::INT8],
};

static RECENT_HEADS_OF_LOGS: Sql = Sql {
    text: "
select h.user_key, h.app_id, h.head, now() - u.age as since
from (select log_id, millis * interval '1 millisecond' as age
      from unnest($1::uuid[], $2::int8[]) as u (log_id, millis)) u
join sync_heads h on h.log_id = u.log_id
where h.head > now() - u.age",
    types: &[Type::UUID_ARRAY, Type::INT8_ARRAY],
};

static NEWEST_RECENT_HEADS: Sql = Sql {
    text: "
select user_key, app_id, head, now() - $2 * interval '1 millisecond' as since
from sync_heads where user_key = $1 and head > now() - $2 * interval '1 millisecond'
order by head desc limit $3",
    types: &[Type::UUID, Type::INT8, Type::INT8],
};

// An erased log has a single position, and is reported as a whole: at least one log, and further ones until their names
// number `$5`. Each of the rest is reported by a single row.
static CHANGED_TABLES: Sql = Sql {
    text: "
select s.number, c.table_name, c.client_id, c.first, c.until, c.changes
from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) with ordinality as s (log_id, after, last, number)
cross join lateral (
    select r.table_name, r.client_id, min(r.created_at) as first, max(max(r.created_at)) over () as until,
           (sum(count(*)) over ())::int8 as changes
    from (select c.table_name, c.client_id, c.created_at from sync_changes c
          where c.log_id = s.log_id and c.created_at > s.after and c.created_at <= s.last
          order by c.created_at limit $4) r
    group by r.table_name, r.client_id
) c
union all
select e.number, t.name, '', e.head, case when e.is_told then e.head end, 0
from (
    select s.number, e.head, e.tables,
           coalesce(sum(cardinality(e.tables[:5000])) over (order by s.number rows between unbounded preceding and 1 preceding), 0) < $5
               as is_told
    from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) with ordinality as s (log_id, after, last, number)
    join sync_erased e on e.log_id = s.log_id and e.head > s.after and e.head <= s.last
) e
cross join lateral unnest(case when e.is_told then e.tables[:5000] else array[''] end) as t (name)",
    types: &[Type::UUID_ARRAY, Type::TIMESTAMPTZ_ARRAY, Type::TIMESTAMPTZ_ARRAY, Type::INT8, Type::INT8],
};

/// Returns the statements of this file, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![
        ("heads", &HEADS),
        ("heads of logs", &HEADS_OF_LOGS),
        ("newest heads", &NEWEST_HEADS),
        ("recent heads", &RECENT_HEADS),
        ("recent heads of logs", &RECENT_HEADS_OF_LOGS),
        ("newest recent heads", &NEWEST_RECENT_HEADS),
        ("changed tables", &CHANGED_TABLES),
    ]
}

/// Reads the heads of logs.
#[derive(Clone, Debug)]
pub struct HeadReader {
    pool: Pool,
}

impl HeadReader {
    pub(super) fn new(pool: Pool) -> HeadReader {
        HeadReader { pool }
    }

    /// Returns the heads of these users' logs.
    pub async fn of_users(&self, users: &[UserKey]) -> Result<Heads<Head>, StoreError> {
        let keys: Vec<Uuid> = users.iter().map(|user| user.0).collect();
        let rows = traced::run(&self.pool, traced::HEADS, &HEADS, &[&keys, &(MAX_LOGS as i64 + 1)]).await?;
        let heads: Vec<Head> = rows.iter().map(read_head).collect::<Result<_, _>>()?;
        let mut logs: HashMap<UserKey, usize> = HashMap::with_capacity(users.len());
        heads.iter().for_each(|head| *logs.entry(head.user).or_default() += 1);
        logs.retain(|_, logs| *logs > MAX_LOGS);
        Ok(without(heads, logs.into_keys().collect(), |head| head.user))
    }

    /// Returns the heads of these logs.
    pub async fn of_logs(&self, logs: &[LogId]) -> Result<Vec<Head>, StoreError> {
        let logs: Vec<Uuid> = logs.iter().map(|log| log.0).collect();
        let rows = traced::run(&self.pool, traced::HEADS, &HEADS_OF_LOGS, &[&logs]).await?;
        Ok(rows.iter().map(read_head).collect::<Result<_, _>>()?)
    }

    /// Returns the heads of a user's most recently written logs, at most [`MAX_LOGS`]. Reads all of the user's heads.
    pub async fn newest(&self, user: UserKey) -> Result<Vec<Head>, StoreError> {
        let rows = traced::run(&self.pool, traced::HEADS, &NEWEST_HEADS, &[&user.0, &(MAX_LOGS as i64)]).await?;
        Ok(rows.iter().map(read_head).collect::<Result<_, _>>()?)
    }

    /// Returns these users' logs whose newest change is no older than the age given for each user.
    pub async fn recent_of_users(&self, users: &[(UserKey, Duration)]) -> Result<Heads<RecentHead>, StoreError> {
        let keys: Vec<Uuid> = users.iter().map(|(user, _)| user.0).collect();
        let ages: Vec<i64> = users.iter().map(|(_, age)| age.as_millis() as i64).collect();
        let most = MAX_LOGS as i64 + 1;
        let rows = traced::run(&self.pool, traced::RECENT_HEADS, &RECENT_HEADS, &[&keys, &ages, &most]).await?;
        let (mut heads, mut too_many) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in &rows {
            let recent = read_recent(row)?;
            if row.try_get::<_, i64>(4)? == most {
                too_many.push(recent.head.user);
            }
            heads.push(recent);
        }
        Ok(without(heads, too_many, |recent| recent.head.user))
    }

    /// Returns those of these logs whose newest change is no older than the age given for each.
    pub async fn recent_of_logs(&self, logs: &[(LogId, Duration)]) -> Result<Vec<RecentHead>, StoreError> {
        let keys: Vec<Uuid> = logs.iter().map(|(log, _)| log.0).collect();
        let ages: Vec<i64> = logs.iter().map(|(_, age)| age.as_millis() as i64).collect();
        let rows = traced::run(&self.pool, traced::RECENT_HEADS, &RECENT_HEADS_OF_LOGS, &[&keys, &ages]).await?;
        Ok(rows.iter().map(read_recent).collect::<Result<_, _>>()?)
    }

    /// Returns a user's logs whose newest change is no older than this, at most the newest [`MAX_LOGS`]. Reads all of
    /// the user's heads.
    pub async fn newest_recent(&self, user: UserKey, age: Duration) -> Result<Vec<RecentHead>, StoreError> {
        let age = age.as_millis() as i64;
        let parameters: [&(dyn ToSql + Sync); 3] = [&user.0, &age, &(MAX_LOGS as i64)];
        let rows = traced::run(&self.pool, traced::RECENT_HEADS, &NEWEST_RECENT_HEADS, &parameters).await?;
        Ok(rows.iter().map(read_recent).collect::<Result<_, _>>()?)
    }

    /// Returns the tables changed in these ranges, and by which devices, or in the first part of each range. The total
    /// number of changes read is bounded: the more ranges there are, the fewer changes are read of each.
    pub async fn changed_tables(&self, ranges: &[LogRange]) -> Result<Vec<RangeChanges>, StoreError> {
        let logs: Vec<Uuid> = ranges.iter().map(|range| range.log.0).collect();
        let after: Vec<_> = ranges.iter().map(|range| Micros(range.after)).collect();
        let last: Vec<_> = ranges.iter().map(|range| Micros(range.last)).collect();
        let most = (CHANGES_PER_QUERY / ranges.len().max(1)).max(CHANGES_PER_RANGE) as i64;
        let names = CHANGES_PER_QUERY as i64;
        let rows =
            traced::run(&self.pool, traced::CHANGED_TABLES, &CHANGED_TABLES, &[&logs, &after, &last, &most, &names])
                .await?;
        let mut changes: Vec<RangeChanges> =
            ranges.iter().map(|range| RangeChanges { tables: Vec::new(), until: range.last }).collect();
        for row in rows {
            let (number, Micros(first)) = (row.try_get::<_, i64>(0)?, row.try_get(3)?);
            // The ranges are numbered from one.
            let changed = &mut changes[number as usize - 1];
            let Some(Micros(until)) = row.try_get(4)? else {
                changed.until = changed.until.min(first - 1);
                continue;
            };
            if row.try_get::<_, i64>(5)? == most {
                changed.until = changed.until.min(until);
            }
            changed.tables.push(ChangedTable { table: row.try_get(1)?, client: row.try_get(2)?, first });
        }
        for changed in &mut changes {
            changed.tables.retain(|table| table.first <= changed.until);
            changed.tables.sort_unstable_by_key(|table| table.first);
        }
        Ok(changes)
    }
}

/// Removes the heads of users who have too many.
fn without<H>(mut heads: Vec<H>, too_many: Vec<UserKey>, user: impl Fn(&H) -> UserKey) -> Heads<H> {
    if !too_many.is_empty() {
        let are_left_out: HashSet<UserKey> = too_many.iter().copied().collect();
        heads.retain(|head| !are_left_out.contains(&user(head)));
    }
    Heads { heads, too_many }
}

fn read_head(row: &Row) -> Result<Head, tokio_postgres::Error> {
    let Micros(at) = row.try_get(2)?;
    Ok(Head { user: UserKey(row.try_get(0)?), app: row.try_get(1)?, at })
}

fn read_recent(row: &Row) -> Result<RecentHead, tokio_postgres::Error> {
    let Micros(since) = row.try_get(3)?;
    Ok(RecentHead { head: read_head(row)?, since })
}
