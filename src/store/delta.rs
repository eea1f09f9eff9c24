//! Reading a log in pages, bounded by count and by bytes (G2, G6).

use super::push::{forever, read_change};
use super::{Store, StoreError, time, traced};
use crate::defects::Defect;
use crate::protocol::merge::{OwnWrites, StoredChange};
use crate::protocol::page::Page;
use crate::protocol::{Cursor, Log, LogId};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::chrono::{DateTime, Utc};
use std::collections::BTreeSet;

/// One page of a log: the head and the changes in one statement, so that they belong to one snapshot.
///
/// `$log` is the condition on the log, over `$1` or by user and app over `$8` and `$9`; `$tables` the one on the table,
/// over `$6`. One row more than a page is read to know whether there is
/// more; a row is left out by the sum of the bytes before it, so a page has at least one. Values are written out
/// only for the rows that are left. `more`: whether this row is followed by another. `reader_holds`: whether the reader
/// holds later stamps than are stored anywhere.
macro_rules! page_query {
    ($log:literal, $tables:literal) => {
        concat!(
            "select h.head, c.created_at, c.table_name, c.record_id, c.op, c.data::text as data,
                    c.field_timestamps::text as stamps, c.more,
                    exists (select from sync_changes o
                            where o.log_id = $1 and o.client_id = $3 and o.held is not null) as reader_holds
             from sync_heads h
             left join lateral (
                 select * from (
                     select r.*,
                            lead(r.created_at) over before_it is not null as more,
                            sum(r.size) over before_it as bytes
                     from (
                         select created_at, table_name, record_id, op, data, field_timestamps, size
                         from sync_changes
                         where ",
            $log,
            " and created_at > $2
                           and ($3::text is null or client_id <> $3 or created_at < $4)
                           and ",
            $tables,
            "
                         order by created_at limit $5
                     ) r
                     window before_it as (order by r.created_at rows between unbounded preceding and 1 preceding)
                 ) sized where bytes is null or bytes < $7
             ) c on true
             where h.log_id = $1 order by c.created_at"
        )
    };
}

const PAGE_OF_ALL_TABLES: &str = page_query!("log_id = $1 and ($8::text, $9::text) is not null", "$6::text[] is null");
/// By user and app: the index of tables begins with them, because programs that write SQL know no log.
const PAGE_OF_ONE_TABLE: &str = page_query!("user_id = $8 and app_id = $9", "table_name = ($6::text[])[1]");
const PAGE_OF_SOME_TABLES: &str =
    page_query!("log_id = $1 and ($8::text, $9::text) is not null", "table_name = any($6)");

/// The fields that a change `c` writes, without their values, which merging does not need: of an insert all members,
/// and what may carry its stamp; of an update those that have stamps.
macro_rules! fields_only {
    () => {
        "c.created_at, c.table_name, c.record_id, c.op, c.field_timestamps::text as stamps,
         case c.op
             when 'insert' then (
                 select jsonb_object_agg(name, case when name in ('updatedAt', 'createdAt') then c.data -> name end)
                 from jsonb_object_keys(case jsonb_typeof(c.data) when 'object' then c.data end) as name)
             when 'update' then (
                 select jsonb_object_agg(name, null) from jsonb_object_keys(c.field_timestamps) as name)
         end::text as data"
    };
}

/// What a device wrote to these records: since a position, and before it what it holds with later stamps.
const OWN_WRITES: &str = concat!(
    "select ",
    fields_only!(),
    ", c.held::text as held
from unnest($3::text[], $4::text[]) as k (table_name, record_id)
join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
where c.log_id = $1 and c.client_id = $2 and c.created_at >= $5
union all
select ",
    fields_only!(),
    ", c.held::text as held
from unnest($3::text[], $4::text[]) as k (table_name, record_id)
join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
where c.log_id = $1 and c.client_id = $2 and c.created_at < $5 and c.held is not null"
);

const HISTORY: &str = concat!(
    "select ",
    fields_only!(),
    "
from unnest($2::text[], $3::text[]) as k (table_name, record_id)
join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
where c.log_id = $1 and c.created_at < $4
order by c.created_at"
);

/// Which of its own changes a device gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnChanges {
    /// None.
    Without,
    /// On a walk from the beginning: those stored before this position.
    Before(i64),
    /// On a walk from the beginning: all.
    All,
}

impl OwnChanges {
    /// What a reader at this cursor gets.
    pub fn at(since: Cursor) -> OwnChanges {
        if since.is_walk() { OwnChanges::All } else { OwnChanges::Without }
    }
}

/// Which page of a log is wanted.
#[derive(Clone, Debug)]
pub struct PageRequest<'a> {
    pub since: Cursor,
    /// The device that reads.
    pub reader: Option<&'a str>,
    pub own: OwnChanges,
    /// These tables only; none means all.
    pub tables: Option<&'a [String]>,
}

impl Store {
    /// The changes after a cursor, as many as a page holds.
    pub async fn page(&self, log: &Log, request: &PageRequest<'_>) -> Result<Page, StoreError> {
        self.despite_loss(|| self.try_page(log, request)).await
    }

    async fn try_page(&self, log: &Log, request: &PageRequest<'_>) -> Result<Page, StoreError> {
        let limit = self.limits.changes as usize;
        let own_before = match request.own {
            OwnChanges::Without => DateTime::UNIX_EPOCH,
            OwnChanges::Before(position) => time(position),
            OwnChanges::All => forever(),
        };
        let query = match request.tables {
            None => PAGE_OF_ALL_TABLES,
            Some([_]) => PAGE_OF_ONE_TABLE,
            Some(_) => PAGE_OF_SOME_TABLES,
        };
        let statement = sqlx::query(query)
            .bind(log.id.0)
            .bind(time(request.since.micros()))
            .bind(request.reader)
            .bind(own_before)
            .bind(limit as i64 + 1)
            .bind(request.tables)
            .bind(i64::from(self.limits.bytes))
            .bind(&*log.user_id)
            .bind(&*log.app)
            .fetch_all(&self.pool);
        let rows = self.traced(traced::PAGE, statement).await?;
        let PageRows { head, has_more, reader_holds, changes } = PageRows::read(rows, limit)?;
        let until = match changes.last() {
            Some(last) if has_more && !Defect::PageEndsAtHead.is_on() => {
                Cursor::after(last.at).on_walk(request.since.is_walk())
            }
            _ if Defect::CursorFromClock.is_on() => Cursor::after(Utc::now().timestamp_micros() / 2 * 2),
            _ => Cursor::after(head),
        };
        let own = match request.own {
            // A walk brings the device's own changes back in their places.
            OwnChanges::All if !reader_holds => OwnWrites::default(),
            _ => self.own_writes(log.id, request, &changes, own_before).await?,
        };
        Ok(Page { changes, own, until, has_more })
    }

    /// What the reader itself wrote to the records of these changes, where it bears on how they are sent.
    async fn own_writes(
        &self,
        log: LogId,
        request: &PageRequest<'_>,
        changes: &[StoredChange],
        own_before: DateTime<Utc>,
    ) -> Result<OwnWrites, StoreError> {
        let mut own = OwnWrites::default();
        let (Some(reader), Some(first)) = (request.reader, changes.first()) else { return Ok(own) };
        let records: BTreeSet<(&str, &str)> =
            changes.iter().map(|change| (change.table.as_str(), change.record.as_str())).collect();
        let (tables, ids): (Vec<&str>, Vec<&str>) = records.into_iter().unzip();
        // On a walk the device's changes come back in their places; only what it is not sent again counts.
        let since = if request.own == OwnChanges::Without { time(first.at) } else { own_before };
        let statement =
            sqlx::query(OWN_WRITES).bind(log.0).bind(reader).bind(&tables).bind(&ids).bind(since).fetch_all(&self.pool);
        let rows = self.traced(traced::OWN_WRITES, statement).await?;
        for row in rows {
            let held = row.try_get("held")?;
            own.add_own(&StoredChange { held, ..read_change(row)? })?;
        }
        self.add_history(log, first.at, &mut own).await?;
        Ok(own)
    }

    async fn add_history(&self, log: LogId, before: i64, own: &mut OwnWrites) -> Result<(), StoreError> {
        let (tables, ids): (Vec<&str>, Vec<&str>) = own.needs_history().into_iter().unzip();
        if tables.is_empty() {
            return Ok(());
        }
        let statement =
            sqlx::query(HISTORY).bind(log.0).bind(&tables).bind(&ids).bind(time(before)).fetch_all(&self.pool);
        for row in self.traced(traced::HISTORY, statement).await? {
            own.add_earlier(&read_change(row)?)?;
        }
        Ok(())
    }
}

/// What a page's statement brings.
#[derive(Debug, Default)]
struct PageRows {
    head: i64,
    /// Whether there are more changes than those.
    has_more: bool,
    /// Whether the reader holds later stamps than are stored, anywhere in the log.
    reader_holds: bool,
    changes: Vec<StoredChange>,
}

impl PageRows {
    /// Reads the rows of a page of at most so many changes.
    fn read(mut rows: Vec<PgRow>, limit: usize) -> Result<PageRows, StoreError> {
        let Some(first) = rows.first() else { return Ok(PageRows::default()) };
        let head: DateTime<Utc> = first.try_get("head")?;
        let mut page = PageRows { head: head.timestamp_micros(), ..PageRows::default() };
        if first.try_get::<Option<bool>, _>("more")?.is_none() {
            return Ok(page);
        }
        page.reader_holds = first.try_get("reader_holds")?;
        rows.truncate(limit);
        if let Some(last) = rows.last() {
            page.has_more = last.try_get("more")?;
        }
        page.changes = rows.into_iter().map(read_change).collect::<Result<_, _>>()?;
        Ok(page)
    }
}
