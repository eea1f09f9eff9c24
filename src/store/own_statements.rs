//! The statements of [`super::own_writes`]: they find the best writes to fields of records, however many writes there
//! are.

use crate::db::Sql;
use tokio_postgres::types::Type;

/// A regular expression for stamps in the store's format, which rejects days that do not exist.
macro_rules! stamp_pattern {
    () => {
        "'^(\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))\
         |(\\d\\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)\
         T([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d\\.\\d{3}Z$'"
    };
}

/// The stamp of an insert `c`: that of `updatedAt`, else of `createdAt`, in the store's format; else the epoch.
macro_rules! insert_stamp {
    () => {
        concat!(
            "case
             when c.data ->> 'updatedAt' ~ ",
            stamp_pattern!(),
            "
             then c.data ->> 'updatedAt'
             when c.data ->> 'createdAt' ~ ",
            stamp_pattern!(),
            "
             then c.data ->> 'createdAt'
             else '1970-01-01T00:00:00.000Z'
         end"
        )
    };
}

/// Columns computed once for a whole change `c`: the suffix of its ranks, the stamps that its device claimed, and the
/// stamp of an insert. Computed once per change rather than per field, because PostgreSQL decompresses a long value
/// each time something looks into it, but not a value it has just created. Must be in a subquery of its own that ends
/// with `offset 0`.
macro_rules! of_whole_change {
    () => {
        concat!(
            "lpad((extract(epoch from c.created_at) * 1000000)::int8::text, 18, '0') as position,
           case when c.is_read then c.held || '{}' end as claimed,
           case when c.is_read and c.op = 'insert' then ",
            insert_stamp!(),
            " end as inserted"
        )
    };
}

/// The fields `f (name, stamp, claimed)` that a change `c` writes, out of those asked for: the members of `c.names`.
/// Without their values, which merging does not need. None for a change that is not read.
macro_rules! fields_of_change {
    () => {
        "left join lateral (
    select s.key as name, s.value as stamp, c.claimed ->> s.key as claimed
    from jsonb_each_text(case when c.is_read and c.op <> 'insert' then c.field_timestamps end) as s
    where c.names ? s.key
    union all
    select name, c.inserted, c.claimed ->> name
    from jsonb_object_keys(case when c.is_read and c.op = 'insert' and jsonb_typeof(c.data) = 'object' then c.data end) as name
    where c.names ? name
) f on true"
    };
}

/// The stamp of a write followed by its position in microseconds; the greatest such text is the best write.
macro_rules! rank {
    () => {
        "(f.stamp || c.position) collate \"C\""
    };
}

/// The cost of looking into a change `c`: the stored bytes of the columns that contain its fields.
macro_rules! weight {
    () => {
        "coalesce(pg_column_size(case c.op when 'insert' then c.data else c.field_timestamps end), 0)
                   + coalesce(pg_column_size(c.held), 0)"
    };
}

/// True of a change `$change` of a record before a position, for use next to `created_at >= …`.
///
/// PostgreSQL guesses that two plain bounds leave one row in 200, of a log as of a record. If most logs are short, it then
/// considers part of a log as short as part of a record, and looks through a long log for each record of a page. Only the
/// index of records can serve this comparison; with the other bound alone, PostgreSQL guesses that a third is left.
///
/// The price: in a record that is read in several statements, it starts at the newest change and skips those after the
/// position in the index, at 65 ns each: 62 instead of 32 ms where half a million of them come first.
macro_rules! before {
    ($change:literal, $record:literal, $position:literal) => {
        concat!("(", $change, ".record_id, ", $change, ".created_at) < (", $record, ", ", $position, ")")
    };
}

/// True of a change `$change` of a record from a position on, likewise: before its table is analyzed for the first time,
/// PostgreSQL takes part of any log for as short as part of a record. A scan from the newest change ends there.
macro_rules! since {
    ($change:literal, $record:literal, $position:literal) => {
        concat!("(", $change, ".record_id, ", $change, ".created_at) >= (", $record, ", ", $position, ")")
    };
}

/// Maximum cost per statement. At least one change is always read.
macro_rules! most_weight {
    () => {
        "2097152"
    };
}

/// A device's writes to these fields of these records since a position. Writes to other fields are reported in a row
/// without a name, so `last` tells for each record whether and when it was written at all. Records are identified by
/// their number, from 1 on. If the total cost is too high, there are only rows with `stopped_at`.
pub(super) static OWN_WRITES: Sql = Sql {
    text: concat!(
        "select c.number, max(c.created_at) filter (where not c.is_read) as stopped_at, f.name, max(",
        rank!(),
        ") as best, max(f.claimed collate \"C\") as held, max(c.created_at) as last, null::text as earlier
from (
    select c.number, c.names, c.op, c.data, c.field_timestamps, c.created_at, c.is_read, ",
        of_whole_change!(),
        "
    from (
        select k.number, k.names, c.op, c.data, c.field_timestamps, c.held, c.created_at,
               sum(",
        weight!(),
        ") over () < ",
        most_weight!(),
        " as is_read
        from unnest($3::text[], $4::text[], $6::jsonb[]) with ordinality as k (table_name, record_id, names, number)
        cross join lateral (
            select s.op, s.data, s.field_timestamps, s.held, s.created_at from sync_changes s
            where s.log_id = $1 and s.table_name = k.table_name and s.record_id = k.record_id and s.client_id = $2
              and ",
        since!("s", "k.record_id", "$5"),
        "
            order by s.created_at desc
            offset 0
        ) c
    ) c
    offset 0
) c ",
        fields_of_change!(),
        "
group by c.number, f.name"
    ),
    types: &[Type::UUID, Type::TEXT, Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::TIMESTAMPTZ, Type::JSONB_ARRAY],
};

/// The parameter types of a bounded read.
const LOOK_TYPES: &[Type] = &[
    Type::UUID,
    Type::TEXT,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::TIMESTAMPTZ,
    Type::JSONB_ARRAY,
    Type::TIMESTAMPTZ,
    Type::INT8,
    Type::TIMESTAMPTZ,
    Type::TIMESTAMPTZ_ARRAY,
];

/// The same within bounds. (The inner limit keeps PostgreSQL from sorting a whole record.) The records are read one
/// after another, each from its newest change back to `$5`, until `$8` rows have been read, whoever wrote them, or
/// until the device's rows reach the maximum cost: `stopped_at` is the position of the last row read. The first record
/// is read from before `$7` back to `$9`, and also at the positions `$10`, where the device is known to have written.
pub(super) static SOME_OWN_WRITES: Sql = Sql {
    text: concat!(
        "select c.number, max(c.created_at) filter (where c.is_end) as stopped_at, f.name, max(",
        rank!(),
        ") as best, max(f.claimed collate \"C\") as held,
       max(c.created_at) filter (where c.is_read) as last, null::text as earlier
from (
    select c.number, c.names, c.op, c.data, c.field_timestamps, c.created_at, c.is_read, c.is_end, ",
        of_whole_change!(),
        "
    from (
        select c.number, c.names, c.op, c.data, c.field_timestamps, c.held, c.created_at, c.client_id = $2 as is_read,
               c.place = $8 or c.weight >= ",
        most_weight!(),
        " as is_end
        from (
            select c.*, k.number, k.names, row_number() over up_to as place,
                   coalesce(sum(case when c.client_id = $2 then ",
        weight!(),
        " end) over up_to, 0) as weight
            from unnest($3::text[], $4::text[], $6::jsonb[]) with ordinality as k (table_name, record_id, names, number)
            cross join lateral (
                select s.* from sync_changes s
                where s.log_id = $1 and s.table_name = k.table_name and s.record_id = k.record_id
                  and s.created_at >= case when k.number = 1 then $9 else $5 end
                  and ",
        before!("s", "k.record_id", "case when k.number = 1 then $7 else 'infinity' end"),
        "
                order by s.created_at desc limit $8
            ) c
            window up_to as (rows between unbounded preceding and current row)
            limit $8
        ) c
        where (c.client_id = $2 or c.place = $8) and c.weight - case when c.client_id = $2 then ",
        weight!(),
        " else 0 end < ",
        most_weight!(),
        "
        union all
        select 1, ($6::jsonb[])[1], c.op, c.data, c.field_timestamps, c.held, c.created_at, true, c.weight >= ",
        most_weight!(),
        "
        from (
            select c.*, sum(",
        weight!(),
        ") over (order by c.created_at desc rows unbounded preceding) as weight
            from unnest($10::timestamptz[]) as p (at)
            cross join lateral (select s.* from sync_changes s where s.log_id = $1 and s.created_at = p.at limit 1) c
            where c.client_id = $2
        ) c
        where c.weight - (",
        weight!(),
        ") < ",
        most_weight!(),
        "
    ) c
    offset 0
) c ",
        fields_of_change!(),
        "
group by c.number, f.name"
    ),
    types: LOOK_TYPES,
};

/// Writes to these fields of these records before a position (`$5`, or `$7` for the first record), within the same
/// bounds: what the device wrote with later stamps than are stored, and, as `earlier`, the best write by anybody.
pub(super) static EARLIER_WRITES: Sql = Sql {
    text: concat!(
        "select c.number, max(c.created_at) filter (where c.is_end) as stopped_at, f.name, max(",
        rank!(),
        ") filter (where c.claims) as best, max(f.claimed collate \"C\") filter (where c.claims) as held,
       max(c.created_at) filter (where c.claims) as last,
       max(",
        rank!(),
        ") as earlier
from (
    select c.number, c.names, c.op, c.data, c.field_timestamps, c.created_at, c.is_read, c.is_end, c.claims, ",
        of_whole_change!(),
        "
    from (
        select c.*, c.place = $8 or c.weight >= ",
        most_weight!(),
        " as is_end, c.client_id = $2 and c.held is not null as claims, true as is_read
        from (
            select c.*, k.number, k.names, row_number() over up_to as place, sum(",
        weight!(),
        ") over up_to as weight
            from unnest($3::text[], $4::text[], $6::jsonb[]) with ordinality as k (table_name, record_id, names, number)
            cross join lateral (
                select s.* from sync_changes s
                where s.log_id = $1 and s.table_name = k.table_name and s.record_id = k.record_id
                  and s.created_at < case when k.number = 1 then $7 else $5 end
                order by s.created_at desc limit $8
            ) c
            window up_to as (rows between unbounded preceding and current row)
            limit $8
        ) c
        where c.weight - (",
        weight!(),
        ") < ",
        most_weight!(),
        "
    ) c
    offset 0
) c ",
        fields_of_change!(),
        "
group by c.number, f.name"
    ),
    // It has no positions.
    types: LOOK_TYPES.split_at(8).0,
};

/// The numbers of those of these records to which the device wrote with later stamps than are stored.
pub(super) static CLAIMED: Sql = Sql {
    text: "
select k.number from unnest($3::text[], $4::text[]) with ordinality as k (table_name, record_id, number)
cross join lateral (
    select from sync_changes c
    where c.log_id = $1 and c.client_id = $2 and c.table_name = k.table_name and c.record_id = k.record_id
      and c.held is not null
    limit 1
) c
order by k.number",
    types: &[Type::UUID, Type::TEXT, Type::TEXT_ARRAY, Type::TEXT_ARRAY],
};

/// The positions at which a device wrote a record, within a range and up to a limit.
pub(super) static OWN_POSITIONS: Sql = Sql {
    text: concat!(
        "
select created_at from sync_changes c
where log_id = $1 and client_id = $2 and table_name = $3 and record_id = $4 and created_at >= $5 and ",
        before!("c", "$4", "$6"),
        "
order by created_at limit $7"
    ),
    types: &[Type::UUID, Type::TEXT, Type::TEXT, Type::TEXT, Type::TIMESTAMPTZ, Type::TIMESTAMPTZ, Type::INT8],
};
