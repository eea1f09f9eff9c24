//! The statements of [`super::own_writes`]: the best that was written to fields of records, whatever the number of writes.

use crate::db::Sql;
use tokio_postgres::types::Type;

/// Whether a text is a stamp as the store writes them, as a regular expression: days that do not exist are none.
macro_rules! stamp_pattern {
    () => {
        "'^(\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))\
         |(\\d\\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)\
         T([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d\\.\\d{3}Z$'"
    };
}

/// The stamp of an insert `c`: that of `updatedAt`, else of `createdAt`, as the store writes them; else the epoch.
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

/// The fields `f (name, stamp)` that a change `c` writes, of those that are asked for: the members of `c.names`. Without their
/// values, which merging does not need.
macro_rules! fields_of_change {
    ($join:literal) => {
        concat!(
            $join,
            " lateral (
    select s.key as name, s.value as stamp
    from jsonb_each_text(case when c.op <> 'insert' then c.field_timestamps end) as s
    where c.names ? s.key
    union all
    select name, ",
            insert_stamp!(),
            "
    from jsonb_object_keys(case when c.op = 'insert' and jsonb_typeof(c.data) = 'object' then c.data end) as name
    where c.names ? name
) f on true"
        )
    };
}

/// The best write of each field, as the stamp followed by the position in microseconds: of such texts the greatest is best.
macro_rules! best {
    () => {
        "max(f.stamp || lpad((extract(epoch from c.created_at) * 1000000)::int8::text, 18, '0') collate \"C\")"
    };
}

/// What a device wrote to these fields of these records: since a position, and before it where it holds later stamps than are
/// stored. For writes of other fields there is a row without a name, so `last` tells of each record whether and when it was
/// written at all.
pub(super) static OWN_WRITES: Sql = Sql {
    text: concat!(
        "select c.table_name, c.record_id, f.name, ",
        best!(),
        " as best, max(c.held ->> f.name collate \"C\") as held, max(c.created_at) as last
from (
    select c.*, k.names from unnest($3::text[], $4::text[], $6::jsonb[]) as k (table_name, record_id, names)
    join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
    where c.log_id = $1 and c.client_id = $2 and c.created_at >= $5
    union all
    select c.*, k.names from unnest($3::text[], $4::text[], $6::jsonb[]) as k (table_name, record_id, names)
    join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
    where c.log_id = $1 and c.client_id = $2 and c.created_at < $5 and c.held is not null
) c ",
        fields_of_change!("left join"),
        "
group by c.table_name, c.record_id, f.name"
    ),
    types: &[Type::UUID, Type::TEXT, Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::TIMESTAMPTZ, Type::JSONB_ARRAY],
};

/// The same, if `$9` with what is before that position. The records are looked at one after the other, each from its newest change
/// before `$7` back, until `$8` rows have been looked at, whoever wrote them: `stopped_at` is the position of the last one of those.
pub(super) static SOME_OWN_WRITES: Sql = Sql {
    text: concat!(
        "select c.table_name, c.record_id, f.name, ",
        best!(),
        " as best, max(c.held ->> f.name collate \"C\") as held,
       max(c.created_at) filter (where c.client_id = $2) as last, max(c.created_at) filter (where c.place = $8) as stopped_at
from (
    select *, case when client_id = $2 then asked end as names from (
        select r.*, k.asked, row_number() over () as place
        from unnest($3::text[], $4::text[], $6::jsonb[], $7::timestamptz[]) as k (table_name, record_id, asked, before)
        cross join lateral (
            select c.* from sync_changes c
            where c.log_id = $1 and c.table_name = k.table_name and c.record_id = k.record_id
              and c.created_at >= $5 and c.created_at < k.before
            order by c.created_at desc
        ) r
        limit $8
    ) looked_at
    where client_id = $2 or place = $8
    union all
    select c.*, k.names, null, k.names from unnest($3::text[], $4::text[], $6::jsonb[]) as k (table_name, record_id, names)
    join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
    where $9 and c.log_id = $1 and c.client_id = $2 and c.created_at < $5 and c.held is not null
) c ",
        fields_of_change!("left join"),
        "
group by c.table_name, c.record_id, f.name"
    ),
    types: &[
        Type::UUID,
        Type::TEXT,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::TIMESTAMPTZ,
        Type::JSONB_ARRAY,
        Type::TIMESTAMPTZ_ARRAY,
        Type::INT8,
        Type::BOOL,
    ],
};

/// What was written to these fields of these records before a position.
pub(super) static HISTORY: Sql = Sql {
    text: concat!(
        "select c.table_name, c.record_id, f.name, ",
        best!(),
        " as best
from (
    select c.*, k.names from unnest($2::text[], $3::text[], $5::jsonb[]) as k (table_name, record_id, names)
    join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
    where c.log_id = $1 and c.created_at < $4
) c ",
        fields_of_change!("join"),
        "
group by c.table_name, c.record_id, f.name"
    ),
    types: &[Type::UUID, Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::TIMESTAMPTZ, Type::JSONB_ARRAY],
};
