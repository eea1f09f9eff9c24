//! The statement that stores pushes, in its forms: many pushes in one, each whole or not at all and once however often it
//! comes (G1).

use crate::db::Sql;
use tokio_postgres::types::Type;

/// The statement, given how it looks at the heads that are there, and how it takes them.
///
/// * `$1`–`$5`, `$19`: the logs, ordered by id: id, user's key, user, app, how many rows come, and their bytes.
/// * `$6`, `$10`: the pushes: their logs and devices.
/// * `$7`–`$9`, `$11`–`$18`: the rows: which push (from 1), how many positions before its log's new head, the columns.
/// * `$20`: those ids of rows that may have been stored and trimmed away since; `$21`: of a log whose rows were trimmed past
///   this position, any may have been; see [`super::history`].
///
/// A log of which any row is there is left out, for [`super::known`] to find out which of whose push. What it does not
/// say of a log, and of no such row either, is that somebody else holds its head.
///
/// It has as few parts as can be: for a batch of a few small pushes, starting them costs more than running them.
macro_rules! push_text {
    ($look:literal, $($heads:tt)+) => {
            concat!(
                "with found as materialized (
    select h.log_id, greatest(h.trimmed_to, h.trim_horizon) as trimmed_to from sync_heads h where h.log_id = any($1::uuid[])",
                $look,
                "
), known as materialized (
    select array_agg(k.log_id) as logs from (
        select s.log_id from sync_changes s where s.id = any($9::uuid[])
        union all
        select f.log_id from found f
        where f.trimmed_to > 'epoch' and (cardinality($20::uuid[]) > 0 and sync_in_history(f.log_id, $20)
                                          or f.trimmed_to > $21 and sync_in_history(f.log_id, $9))
    ) as k
), heads as (",
                $($heads)+,
                "
), stored as (
    insert into sync_changes (id, log_id, user_id, app_id, client_id, table_name, record_id, op, data,
                              field_timestamps, held, extra, size, created_at)
    select r.id, heads.log_id, heads.user_id, heads.app_id, ($10::text[])[r.push], r.table_name, r.record_id, r.op,
           r.data::jsonb, r.stamps::jsonb, r.held::jsonb, r.extra::jsonb, r.size,
           heads.head - r.before_head * interval '20 microseconds'
    from unnest($7::int4[], $8::int4[], $9::uuid[], $11::text[], $12::text[],
                $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::int4[])
             as r (push, before_head, id, table_name, record_id, op, data, stamps, held, extra, size)
    join heads on heads.log_id = ($6::uuid[])[r.push]
)
select heads.log_id, heads.head, heads.previous, known.logs from known left join heads on true"
            )
    };
}

/// The statement as it is.
macro_rules! push_statement {
    ($($parts:tt)+) => {
        Sql { text: push_text!($($parts)+), types: PUSH_TYPES }
    };
}

/// Takes the heads of the logs, given which, in the order of their ids.
///
/// `clock_timestamp()`, because `now()` is when the transaction began, not when its rows become visible. A head is
/// the greater of the clock and the next after the head before, so cursors ascend even where the clock does not.
/// All positions are multiples of 20 microseconds: see [`crate::protocol::Cursor`]. Logs come in the order of their ids and stay in it, so
/// two batches never wait for each other.
macro_rules! take_heads {
    ($which:literal) => {
        concat!(
            "
    insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous,
                                 untrimmed_since, stored_changes, stored_bytes)
    select log_id, user_key, user_id, app_id,
           date_bin('20 microseconds', clock_timestamp(), 'epoch') + (changes - 1) * interval '20 microseconds',
           'epoch', now(), changes, bytes
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::int8[], $19::int8[])
             as l (log_id, user_key, user_id, app_id, changes, bytes)
    where (l.log_id = any((select logs from known)::uuid[])) is not true",
            $which,
            "
    on conflict (log_id) do update set
        previous = h.head,
        head = greatest(excluded.head, h.head + excluded.stored_changes * interval '20 microseconds'),
        untrimmed_since = coalesce(h.untrimmed_since, excluded.untrimmed_since),
        stored_changes = h.stored_changes + excluded.stored_changes,
        stored_bytes = h.stored_bytes + excluded.stored_bytes
    returning log_id, user_id, app_id, head, previous"
        )
    };
}

/// Takes those heads that nobody holds, and makes those that are not there.
macro_rules! take_free_heads {
    () => {
        take_heads!(
            "
       and (l.log_id in (select log_id from found)
            or (select true from sync_heads s where s.log_id = l.log_id limit 1) is null
               and set_config('lock_timeout', '20', true) is not null)"
        )
    };
}

/// Takes the heads of the logs, waiting for whoever holds them, then stores the changes with the cursors up to them.
///
/// It waits long enough for another push, and not for whoever holds a head for longer: it has a connection meanwhile.
static PUSH: Sql = push_statement!(
    "",
    take_heads!(
        "
       and set_config('lock_timeout', '50', true) is not null"
    )
);

/// The same for those logs alone whose heads nobody holds: it waits for no lock.
///
/// A log that is new is made, which has to wait for whoever makes the same one at the same moment: not for long.
static PUSH_FREE: Sql = push_statement!(" for update skip locked", take_free_heads!());

/// [`PUSH_FREE`] of a single push, whose transaction sends a notification with its commit ([`super::announcement`]).
///
/// * `$22`: the channel; `$23`: the key for this notification; `$24`, `$25`: what stands before and after the range that
///   was stored.
///
/// What nothing is stored of is not told. The commit does not wait for long for whoever holds the lock of those that notify: it
/// may be the commit of somebody else, in another database, that waits for a standby.
static PUSH_NOTIFYING: Sql = Sql {
    text: concat!(
        push_text!(" for update skip locked", take_free_heads!()),
        "
left join lateral (
    select set_config('lock_timeout', '200', true),
           pg_notify($22, 'm3' || encode(substr(sha256($23 || convert_to(said.signed, 'UTF8')), 1, 12), 'hex') || said.signed)
    from (select $24 || lpad(to_hex((extract(epoch from heads.previous) * 1000000)::int8), 16, '0')
                     || lpad(to_hex((extract(epoch from heads.head) * 1000000)::int8), 16, '0') || $25 as signed) said
    where heads.log_id is not null
) notified on true"
    ),
    types: NOTIFYING_TYPES,
};

/// The same for those logs alone that are there, and whose heads nobody holds.
static PUSH_PRESENT: Sql = push_statement!(
    " for update skip locked",
    take_heads!(
        "
       and l.log_id in (select log_id from found)"
    )
);

/// [`PUSH`] as one would first write it; see [`crate::failpoints::Failpoint::NoHeadRow`].
pub(super) static PUSH_WITHOUT_LOCK: Sql = push_statement!(
    "",
    "
    select log_id, user_id, app_id,
           date_bin('20 microseconds', now(), 'epoch') + (changes - 1) * interval '20 microseconds' as head,
           timestamptz 'epoch' as previous
    from unnest($1::uuid[], $3::text[], $4::text[], $5::int8[]) as l (log_id, user_id, app_id, changes)
    where (l.log_id = any((select logs from known)::uuid[])) is not true
), noted as (
    insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous)
    select l.log_id, l.user_key, heads.user_id, heads.app_id, heads.head, heads.previous
    from unnest($1::uuid[], $2::uuid[], $19::int8[]) as l (log_id, user_key, bytes) join heads using (log_id)
    on conflict (log_id) do update set head = greatest(h.head, excluded.head)"
);

/// What the statement is given, and what else.
macro_rules! push_types {
    ($($also:expr),*) => {
        &[
            Type::UUID_ARRAY,
            Type::UUID_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::INT8_ARRAY,
            Type::UUID_ARRAY,
            Type::INT4_ARRAY,
            Type::INT4_ARRAY,
            Type::UUID_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::INT4_ARRAY,
            Type::INT8_ARRAY,
            Type::UUID_ARRAY,
            Type::TIMESTAMPTZ,
            $($also),*
        ]
    };
}

/// What the statement is given.
pub(super) const PUSH_TYPES: &[Type] = push_types![];
/// And one that notifies.
const NOTIFYING_TYPES: &[Type] = push_types![Type::TEXT, Type::BYTEA, Type::TEXT, Type::TEXT];

/// The statements here, by name.
pub(super) fn statements() -> Vec<(&'static str, &'static Sql)> {
    vec![
        ("push", &PUSH),
        ("push to free logs", &PUSH_FREE),
        ("push to logs that are there", &PUSH_PRESENT),
        ("push that notifies", &PUSH_NOTIFYING),
    ]
}

/// The statement in its forms.
#[derive(Clone, Copy, Debug)]
pub(super) struct PushStatements {
    /// Waits a little for heads that somebody holds.
    pub(super) any: &'static Sql,
    /// Leaves those logs out.
    pub(super) free: &'static Sql,
    /// And those that are not there.
    pub(super) present: &'static Sql,
    /// As `free`, of a single push, with a notification in its transaction; none where that would not reach the replicas.
    pub(super) notifying: Option<&'static Sql>,
}

/// As PostgreSQL runs it.
pub(super) static PUSH_STATEMENTS: PushStatements =
    PushStatements { any: &PUSH, free: &PUSH_FREE, present: &PUSH_PRESENT, notifying: Some(&PUSH_NOTIFYING) };
