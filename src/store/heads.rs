//! What the reconciler asks: where the logs of connected users stand, and what changed in one of them. No answer is larger
//! than its bound, whatever is stored (G6).

use super::{StoreError, traced};
use crate::db::{Micros, Pool, Sql};
use crate::protocol::{LogId, UserKey};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// Logs of one user that are looked at, at most. Of those who have more, the ones that were written to last.
pub const MAX_LOGS: usize = 1_000;
/// Changes that are read to find out what changed in so many ranges, at most, and in each of them at least.
const CHANGES_PER_QUERY: usize = 20_000;
const CHANGES_PER_RANGE: usize = 20;

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

/// Where the logs of users stand.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heads<H> {
    /// All those of most users.
    pub heads: Vec<H>,
    /// These have more than [`MAX_LOGS`], of which none is among the heads: they are to be asked for one by one.
    pub too_many: Vec<UserKey>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogRange {
    /// The log.
    pub log: LogId,
    /// After this position, in microseconds.
    pub after: i64,
    /// Up to this one, in microseconds.
    pub last: i64,
}

/// What changed in a range, or in the first part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeChanges {
    /// By the position of the first change.
    pub tables: Vec<ChangedTable>,
    /// Up to where. The end of the range, if all of it was looked at.
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

// Of a user with too many logs one row says so.
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

// What was erased stands at one position, of which all is told: of so many logs as have `$5` names together, one at least. Of the
// others one row says so.
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

/// The statements here, by name.
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

/// Reads where logs stand.
#[derive(Clone, Debug)]
pub struct HeadReader {
    pool: Pool,
}

impl HeadReader {
    pub(super) fn new(pool: Pool) -> HeadReader {
        HeadReader { pool }
    }

    /// Where the logs of these users stand.
    pub async fn of_users(&self, users: &[UserKey]) -> Result<Heads<Head>, StoreError> {
        let keys: Vec<Uuid> = users.iter().map(|user| user.0).collect();
        let rows = traced::run(&self.pool, traced::HEADS, &HEADS, &[&keys, &(MAX_LOGS as i64 + 1)]).await?;
        let heads: Vec<Head> = rows.iter().map(read_head).collect::<Result<_, _>>()?;
        let mut logs: HashMap<UserKey, usize> = HashMap::with_capacity(users.len());
        heads.iter().for_each(|head| *logs.entry(head.user).or_default() += 1);
        logs.retain(|_, logs| *logs > MAX_LOGS);
        Ok(without(heads, logs.into_keys().collect(), |head| head.user))
    }

    /// Where these logs stand.
    pub async fn of_logs(&self, logs: &[LogId]) -> Result<Vec<Head>, StoreError> {
        let logs: Vec<Uuid> = logs.iter().map(|log| log.0).collect();
        let rows = traced::run(&self.pool, traced::HEADS, &HEADS_OF_LOGS, &[&logs]).await?;
        Ok(rows.iter().map(read_head).collect::<Result<_, _>>()?)
    }

    /// Where those logs of a user stand that were written to last, [`MAX_LOGS`] at most. Reads all of them.
    pub async fn newest(&self, user: UserKey) -> Result<Vec<Head>, StoreError> {
        let rows = traced::run(&self.pool, traced::HEADS, &NEWEST_HEADS, &[&user.0, &(MAX_LOGS as i64)]).await?;
        Ok(rows.iter().map(read_head).collect::<Result<_, _>>()?)
    }

    /// Those logs of these users whose newest change is not older than is said for each user.
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

    /// Those of these logs whose newest change is not older than is said for each.
    pub async fn recent_of_logs(&self, logs: &[(LogId, Duration)]) -> Result<Vec<RecentHead>, StoreError> {
        let keys: Vec<Uuid> = logs.iter().map(|(log, _)| log.0).collect();
        let ages: Vec<i64> = logs.iter().map(|(_, age)| age.as_millis() as i64).collect();
        let rows = traced::run(&self.pool, traced::RECENT_HEADS, &RECENT_HEADS_OF_LOGS, &[&keys, &ages]).await?;
        Ok(rows.iter().map(read_recent).collect::<Result<_, _>>()?)
    }

    /// Those logs of a user whose newest change is not older than this, the newest [`MAX_LOGS`] at most. Reads all of them.
    pub async fn newest_recent(&self, user: UserKey, age: Duration) -> Result<Vec<RecentHead>, StoreError> {
        let age = age.as_millis() as i64;
        let parameters: [&(dyn ToSql + Sync); 3] = [&user.0, &age, &(MAX_LOGS as i64)];
        let rows = traced::run(&self.pool, traced::RECENT_HEADS, &NEWEST_RECENT_HEADS, &parameters).await?;
        Ok(rows.iter().map(read_recent).collect::<Result<_, _>>()?)
    }

    /// The tables changed in these ranges, with who changed them, or in the first part of each: so many changes are read
    /// as are bearable at once, the fewer of each range the more there are.
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

/// Heads without those of users who have too many.
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
