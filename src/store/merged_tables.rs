//! Merges the next changes of several tables of a log in log order (G6).
//!
//! The index is ordered by table, so the tables have to be merged: each has been read up to some position, and the
//! merge is complete up to the smallest of these. First, two pages' worth of rows are read, divided equally among the
//! tables. That is enough if there is little new, or if the tables are similar. If not, a smaller part of each table is
//! read; then, repeatedly, the next part of the table that has been read least far, until there is a page. In total
//! this reads a few pages' worth, however many tables there are and however the changes are distributed among them.
//!
//! Parameters are those of a page's statement. The reader's own changes are scanned but not wanted.

/// `first_parts`: the first rows of each table after the cursor, up to a limit.
macro_rules! first_parts {
    ($part:literal) => {
        concat!(
            "first_parts as materialized (
             select t.number, s.created_at, s.is_wanted
             from unnest($6::text[]) with ordinality as t (name, number)
             cross join lateral (
                 select created_at, ($3::text is null or client_id <> $3 or created_at < $4) as is_wanted
                 from sync_changes
                 where user_id = $8 and app_id = $9 and table_name = t.name and created_at > $2
                 order by created_at limit ",
            $part,
            "
             ) s
         )"
        )
    };
}

/// `looked`: the positions found, and `until`, up to which all tables were scanned; null if nothing follows what was
/// found. Reads two pages' worth.
macro_rules! tables_at_once {
    () => {
        concat!(
            "with ",
            first_parts!("2 * $5 / cardinality($6::text[]) + 1"),
            ", looked as materialized (
             select array(select created_at from first_parts where is_wanted) as wanted,
                    (select min(one.until) from (
                         select max(f.created_at) as until from first_parts f
                         group by f.number having count(*) > 2 * $5 / cardinality($6::text[])
                     ) one) as until
         )
         "
        )
    };
}

/// The same, for when that does not fill a page.
macro_rules! merged_tables {
    () => {
        concat!(
            "with recursive ",
            first_parts!("$5 / cardinality($6::text[]) + 1"),
            ", merged (step, ends, wanted, looked_at) as (
             select 0,
                    array(select case when count(f.number) > $5 / cardinality($6::text[]) then max(f.created_at) end
                          from generate_subscripts($6::text[], 1) as t (number) left join first_parts f on f.number = t.number
                          group by t.number order by t.number),
                    array(select created_at from first_parts where is_wanted),
                    (select count(*) from first_parts)
             union all
             select m.step + 1, m.ends[:lowest.number - 1] || part.until || m.ends[lowest.number + 1:],
                    m.wanted || part.wanted, m.looked_at + part.looked_at
             from merged m
             cross join lateral (
                 select e.number::int as number, e.until from unnest(m.ends) with ordinality as e (until, number)
                 where e.until is not null order by e.until limit 1
             ) lowest
             cross join lateral (
                 select array_agg(s.created_at) filter (where s.is_wanted) as wanted, count(*) as looked_at,
                        case when count(*) > $5 / cardinality($6::text[]) then max(s.created_at) end as until
                 from (
                     select created_at, ($3::text is null or client_id <> $3 or created_at < $4) as is_wanted
                     from sync_changes
                     where user_id = $8 and app_id = $9 and table_name = ($6::text[])[lowest.number]
                       and created_at > lowest.until
                     order by created_at limit $5 / cardinality($6::text[]) + 1
                 ) s
             ) part
             -- At most one part of what was read of each table lies beyond the end of another.
             where cardinality(m.wanted) < 2 * $5 + cardinality($6::text[]) and m.looked_at < $11
         ), looked as materialized (
             select m.wanted, (select min(until) from unnest(m.ends) as until) as until
             from merged m order by m.step desc limit 1
         )
         "
        )
    };
}

/// The positions up to which all tables were scanned: at most one page and one more.
macro_rules! merged_positions {
    () => {
        "created_at = any(array(
             select w.created_at from looked cross join unnest(looked.wanted) as w (created_at)
             where looked.until is null or w.created_at <= looked.until
             order by w.created_at limit $5))"
    };
}

pub(super) use {first_parts, merged_positions, merged_tables, tables_at_once};
