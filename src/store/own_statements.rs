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
    () => {
        concat!(
            "left join lateral (
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

/// The stamp of a write followed by its position in microseconds: of such texts the greatest is best.
macro_rules! rank {
    () => {
        "(f.stamp || lpad((extract(epoch from c.created_at) * 1000000)::int8::text, 18, '0')) collate \"C\""
    };
}

/// What a device wrote to these fields of these records since a position. For writes of other fields there is a row without a
/// name, so `last` tells of each record whether and when it was written at all. Records are told by their place, from 1 on.
pub(super) static OWN_WRITES: Sql = Sql {
    text: concat!(
        "select c.number, null::timestamptz as stopped_at, f.name, max(",
        rank!(),
        ") as best, max(c.held ->> f.name collate \"C\") as held, max(c.created_at) as last, null::text as earlier
from (
    select c.*, k.number, k.names
    from unnest($3::text[], $4::text[], $6::jsonb[]) with ordinality as k (table_name, record_id, names, number)
    join sync_changes c on c.table_name = k.table_name and c.record_id = k.record_id
    where c.log_id = $1 and c.client_id = $2 and c.created_at >= $5
) c ",
        fields_of_change!(),
        "
group by c.number, f.name"
    ),
    types: &[Type::UUID, Type::TEXT, Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::TIMESTAMPTZ, Type::JSONB_ARRAY],
};

/// What a look in bounds is given.
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

/// The same in bounds. (The inner limit keeps PostgreSQL from sorting a record as a whole.) The records are looked at one after the other, each from its newest change back to `$5`, until `$8` rows have
/// been looked at, whoever wrote them: `stopped_at` is the position of the last one of those. Of the first record it is from before
/// `$7` back to `$9`, and at the positions `$10`, where the device is known to have written.
pub(super) static SOME_OWN_WRITES: Sql = Sql {
    text: concat!(
        "select c.number, max(c.created_at) filter (where c.place = $8) as stopped_at, f.name, max(",
        rank!(),
        ") as best, max(c.held ->> f.name collate \"C\") as held,
       max(c.created_at) filter (where c.client_id = $2) as last, null::text as earlier
from (
    select *, case when client_id = $2 then asked end as names from (
        select r.*, k.number, k.asked, row_number() over () as place
        from unnest($3::text[], $4::text[], $6::jsonb[]) with ordinality as k (table_name, record_id, asked, number)
        cross join lateral (
            select c.* from sync_changes c
            where c.log_id = $1 and c.table_name = k.table_name and c.record_id = k.record_id
              and c.created_at >= case when k.number = 1 then $9 else $5 end
              and c.created_at < case when k.number = 1 then $7 else 'infinity' end
            order by c.created_at desc limit $8
        ) r
        limit $8
    ) looked_at
    where client_id = $2 or place = $8
    union all
    select r.*, 1, ($6::jsonb[])[1], null, ($6::jsonb[])[1]
    from unnest($10::timestamptz[]) as p (at)
    cross join lateral (select c.* from sync_changes c where c.log_id = $1 and c.created_at = p.at limit 1) r
    where r.client_id = $2
) c ",
        fields_of_change!(),
        "
group by c.number, f.name"
    ),
    types: LOOK_TYPES,
};

/// What was written to these fields of these records before a position (`$5`, of the first record `$7`), in the same bounds: what the
/// device wrote with later stamps than are stored, and as `earlier` the best that anybody wrote.
pub(super) static EARLIER_WRITES: Sql = Sql {
    text: concat!(
        "select c.number, max(c.created_at) filter (where c.place = $8) as stopped_at, f.name, max(",
        rank!(),
        ") filter (where c.claims) as best, max(c.held ->> f.name collate \"C\") filter (where c.claims) as held,
       max(c.created_at) filter (where c.claims) as last,
       max(",
        rank!(),
        ") as earlier
from (
    select r.*, k.number, k.asked as names, r.client_id = $2 and r.held is not null as claims, row_number() over () as place
    from unnest($3::text[], $4::text[], $6::jsonb[]) with ordinality as k (table_name, record_id, asked, number)
    cross join lateral (
        select c.* from sync_changes c
        where c.log_id = $1 and c.table_name = k.table_name and c.record_id = k.record_id
          and c.created_at < case when k.number = 1 then $7 else $5 end
        order by c.created_at desc limit $8
    ) r
    limit $8
) c ",
        fields_of_change!(),
        "
group by c.number, f.name"
    ),
    // It has no positions.
    types: LOOK_TYPES.split_at(8).0,
};

/// To which of these records the device wrote with later stamps than are stored, by their places.
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

/// Where a device wrote a record, between two positions: so many, at most.
pub(super) static OWN_POSITIONS: Sql = Sql {
    text: "
select created_at from sync_changes
where log_id = $1 and client_id = $2 and table_name = $3 and record_id = $4 and created_at >= $5 and created_at < $6
order by created_at limit $7",
    types: &[Type::UUID, Type::TEXT, Type::TEXT, Type::TEXT, Type::TIMESTAMPTZ, Type::TIMESTAMPTZ, Type::INT8],
};
