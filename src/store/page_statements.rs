//! The statements of [`super::delta`]: a page of a log, in all its tables or in some.

use super::merged_tables::{first_parts, merged_positions, merged_tables, tables_at_once};
use crate::db::Sql;
use tokio_postgres::types::Type;

/// One page of a log: the head and the changes in one statement, so that they belong to one snapshot.
///
/// `$log` is the condition on the log, over `$1` or by user and app over `$8` and `$9`; `$tables` the one on the table,
/// over `$6`. One row more than a page is read to know whether there is
/// more; a row is left out by the sum of the bytes up to its own, but for the first. Values are written out
/// only for the rows that are left, and not for a first one of more than `$10` bytes: its reader has no memory for it yet. `more`: whether this row is followed by another. `is_own`: whether the reader stored
/// it. `reader_holds`: whether the reader holds later stamps than are stored anywhere.
///
/// Of the reader's own changes, which are passed over, there may be very many: `$11` rows are looked at, at most. `$until` is
/// the position of the last one that was, if there may be others after it; asked for only where the page is not full.
macro_rules! page_query {
    ($log:literal, $tables:expr, $until:expr) => {
        page_query!($log, $tables, $until, "")
    };
    ($log:literal, $tables:expr, $until:expr, $with:expr) => {
        Sql {
            text: concat!(
            $with,
            "select h.head, c.id, c.created_at, c.table_name, c.record_id, c.op, case when c.size <= $10 then c.data::text end as data,
                    case when c.size <= $10 then c.field_timestamps::text end as stamps,
                    case when c.size <= $10 then c.extra::text end as extra, c.client_id = $3 as is_own, c.rows_trimmed, c.more,
                    exists (select from sync_changes o
                            where o.log_id = $1 and o.client_id = $3 and o.held is not null) as reader_holds, c.size::int8,
                    ",
            $until,
            " as looked_until
             from sync_heads h
             left join lateral (
                 select * from (
                     select r.*,
                            lead(r.created_at) over before_it is not null as more,
                            sum(r.size) over before_it as bytes
                     from (
                         select * from (
                             select id, created_at, client_id, table_name, record_id, op, data, field_timestamps, extra, size, rows_trimmed
                             from sync_changes
                             where ",
            $log,
            " and created_at > $2 and ",
            $tables,
            "
                             order by created_at limit $11
                         ) looked_at
                         where $3::text is null or client_id <> $3 or created_at < $4
                         order by created_at limit $5
                     ) r
                     window before_it as (order by r.created_at rows between unbounded preceding and 1 preceding)
                 ) sized where bytes is null or bytes + size <= $7
                 order by created_at limit $5 - 1
             ) c on true
             where h.log_id = $1 order by c.created_at"
            ),
            types: &[
                Type::UUID,
                Type::TIMESTAMPTZ,
                Type::TEXT,
                Type::TIMESTAMPTZ,
                Type::INT8,
                Type::TEXT_ARRAY,
                Type::INT8,
                Type::TEXT,
                Type::TEXT,
                Type::INT8,
                Type::INT8,
            ],
        }
    };
}

/// The `$11`th row of a log, or of a table, after a position. Found in the index alone; and not looked for where positions
/// are too close to the head for there being so many.
macro_rules! last_looked_at {
    ($log:literal, $tables:literal) => {
        concat!(
            "case when c.more is not true and h.head > $2 + $11 * interval '2 microseconds' then (
                 select created_at from sync_changes where ",
            $log,
            " and created_at > $2 and ",
            $tables,
            " order by created_at offset $11 - 1 limit 1
             ) end"
        )
    };
}

pub(super) static PAGE_OF_ALL_TABLES: Sql = page_query!(
    "log_id = $1 and ($8::text, $9::text) is not null",
    "$6::text[] is null",
    last_looked_at!("log_id = $1", "true")
);
/// By user and app: the index of tables begins with them, because programs that write SQL know no log.
pub(super) static PAGE_OF_ONE_TABLE: Sql = page_query!(
    "user_id = $8 and app_id = $9",
    "table_name = ($6::text[])[1]",
    last_looked_at!("user_id = $8 and app_id = $9", "table_name = ($6::text[])[1]")
);
/// See [`super::merged_tables`].
pub(super) static PAGE_OF_SOME_TABLES: Sql = page_query!(
    "log_id = $1 and ($8::text, $9::text) is not null",
    merged_positions!(),
    "case when c.more is not true then (select until from looked) end",
    tables_at_once!()
);
/// The same, where that brings no page.
pub(super) static PAGE_OF_UNLIKE_TABLES: Sql = page_query!(
    "log_id = $1 and ($8::text, $9::text) is not null",
    merged_positions!(),
    "case when c.more is not true then (select until from looked) end",
    merged_tables!()
);
