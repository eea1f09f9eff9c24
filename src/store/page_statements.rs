//! The statements of [`super::delta`]: a page of a log, from all of its tables or from some.

use super::merged_tables::{first_parts, merged_positions, merged_tables, tables_at_once};
use crate::db::Sql;
use tokio_postgres::types::Type;

/// The sizes of the changes of a page, and of one more to know whether there are more: the others are selected by it.
macro_rules! candidates {
    ($log:literal, $tables:expr) => {
        concat!(
            "(select created_at, size from (
                 select created_at, size, client_id from sync_changes
                 where ",
            $log,
            " and created_at > $2 and ",
            $tables,
            " order by created_at limit $11
             ) looked_at
             where $3::text is null or client_id <> $3 or created_at < $4
             order by created_at limit $5)"
        )
    };
}

/// One page of a log: the head and the changes in one statement, so they belong to one snapshot.
///
/// `$log` is the condition on the log, over `$1`, or by user and app over `$8` and `$9`; `$tables` is the condition on
/// the table, over `$6`. Of `$5` changes at least one is left for the next page, as are those that, with the ones
/// before them, exceed `$7` bytes; the first is on the page whatever its size. Running sums of bytes are computed only
/// if all of them together are too many, which is rare.
///
/// The first row is the head: its position, whether row-level security may hide changes (`op`; see
/// [`super::visibility`]), whether the reader holds later stamps than are stored anywhere (`is_own`),
/// whether there are more changes than those on the page (`rows_trimmed`), and up to where the log was scanned. The
/// changes follow in log order, each as it is found: they are in transit while PostgreSQL looks for the next. `is_own`:
/// whether the reader stored it. `own_later`: for a delete, if `$12`, whether the reader wrote its record later, or may
/// have; if more than thirty changes to it follow, it has to be looked up separately. Values are sent only up to `$10`
/// bytes: for a larger change its reader has no memory yet, and gets `too_large`, its size.
///
/// If the changes take more than `$13` bytes, none of them is sent, and the head has `too_large`: the statement would take
/// long, and its reader has to wait for its turn.
///
/// The reader's own changes, which are skipped, may be very many: at most `$11` rows are scanned. `$until` is the
/// position of the last one scanned, if there may be more after it; computed only if the page is not full.
macro_rules! page_query {
    ($log:literal, $tables:expr, $until:expr) => {
        page_query!($log, $tables, $until, "with ")
    };
    ($log:literal, $tables:expr, $until:expr, $with:expr) => {
        Sql {
            text: concat!(
                $with,
                "totals as materialized (
                     select count(*) as found, coalesce(sum(size), 0) as bytes from ",
                candidates!($log, $tables),
                " c
                 ), cut as materialized (
                     select found, bytes, case when bytes > $13 then 0 when bytes <= $7 then least(found, $5 - 1) else (
                         select max(number) from (
                             select row_number() over up_to as number, sum(size) over up_to as bytes
                             from ",
                candidates!($log, $tables),
                " c window up_to as (order by created_at rows between unbounded preceding and current row)
                         ) summed where number < $5 and (number = 1 or bytes <= $7)
                     ) end as fits from totals
                 )
                 select null::uuid as id, h.head as created_at, null::text as table_name, null::text as record_id,
                        case when row_security_active(to_regclass('sync_changes')) then 'walled' end as op,
                        null::jsonb as data, null::jsonb as stamps, null::jsonb as extra,
                        exists (select from sync_changes o
                                where o.log_id = $1 and o.client_id = $3 and o.held is not null) as is_own,
                        c.fits < c.found as rows_trimmed, case when c.bytes > $13 then c.bytes::int8 end as too_large,
                        null::bool as own_later,
                        case when c.fits = c.found then ",
                $until,
                " end as looked_until
                 from sync_heads h cross join cut c where h.log_id = $1
                 union all
                 (select id, created_at, table_name, record_id, op, case when size <= $10 then data end,
                         case when size <= $10 then field_timestamps end, case when size <= $10 then extra end,
                         client_id = $3, rows_trimmed, case when size > $10 then size::int8 end,
                         case when $12 and op = 'delete' then (
                             select bool_or(o.client_id = $3) or count(*) = 30 from (
                                 select client_id from sync_changes l
                                 where l.log_id = $1 and l.table_name = c.table_name and l.record_id = c.record_id
                                   and l.created_at > c.created_at
                                 order by l.created_at limit 30) o) end,
                         null
                  from sync_changes c
                  where ",
                $log,
                " and created_at > $2 and ",
                $tables,
                " and ($3::text is null or client_id <> $3 or created_at < $4)
                  order by created_at limit (select fits from cut))"
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
                Type::BOOL,
                Type::INT8,
            ],
        }
    };
}

/// The `$11`th row of a log, or of a table, after a position. Found in the index alone, and skipped if the position is
/// too close to the head for that many rows to exist.
macro_rules! last_looked_at {
    ($log:literal, $tables:literal) => {
        concat!(
            "case when h.head > $2 + $11 * interval '2 microseconds' then (
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
/// By user and app, because the index on tables begins with them: programs that write SQL know no log.
pub(super) static PAGE_OF_ONE_TABLE: Sql = page_query!(
    "user_id = $8 and app_id = $9",
    "table_name = ($6::text[])[1]",
    last_looked_at!("user_id = $8 and app_id = $9", "table_name = ($6::text[])[1]")
);
/// See [`super::merged_tables`].
pub(super) static PAGE_OF_SOME_TABLES: Sql = page_query!(
    "log_id = $1 and ($8::text, $9::text) is not null",
    merged_positions!(),
    "(select until from looked)",
    concat!(tables_at_once!(), ", ")
);
/// The same, for when that brings no page.
pub(super) static PAGE_OF_UNLIKE_TABLES: Sql = page_query!(
    "log_id = $1 and ($8::text, $9::text) is not null",
    merged_positions!(),
    "(select until from looked)",
    concat!(merged_tables!(), ", ")
);
