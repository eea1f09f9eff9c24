//! The statement that stores pushes, in several forms: it stores many pushes, each whole or not at all, and once no
//! matter how often it is sent (G1).

use crate::db::Sql;
use tokio_postgres::types::Type;

/// The text of the statement, given how it reads the existing heads, and how it takes them.
///
/// - `$1`–`$5`, `$19`: the logs, ordered by id: id, user key, user, app, number of rows to store, and their bytes.
/// - `$6`, `$10`: the pushes: their logs and devices.
/// - `$7`–`$9`, `$11`–`$18`: the rows: their push (from 1), their distance to the log's new head in positions, the
///   columns.
/// - `$20`: row ids that may have been stored and trimmed away since; `$21`: in a log trimmed past this position, any
///   row may have been; see [`super::history`].
///
/// A log that has any of the rows already is left out, and [`super::known`] finds out which rows of which push they
/// are. A log that appears in neither result has its head locked by another session. The rows are counted, because a
/// trigger of the tables' owner can drop some without an error.
///
/// It has as few parts as possible: for a batch of a few small pushes, starting the parts costs more than running them.
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
           r.data::jsonb, r.stamps::jsonb,
           case when r.held like '\"%' then sync_claimed_stamps(r.held, r.data::jsonb) else r.held::jsonb end,
           r.extra::jsonb, r.size,
           heads.head - r.before_head * interval '20 microseconds'
    from unnest($7::int4[], $8::int4[], $9::uuid[], $11::text[], $12::text[],
                $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::int4[])
             as r (push, before_head, id, table_name, record_id, op, data, stamps, held, extra, size)
    join heads on heads.log_id = ($6::uuid[])[r.push]
    returning 1
)
select heads.log_id, heads.head, heads.previous, known.logs, (select count(*) from stored)
from known left join heads on true"
            )
    };
}

/// The complete statement.
macro_rules! push_statement {
    ($($parts:tt)+) => {
        Sql { text: push_text!($($parts)+), types: PUSH_TYPES }
    };
}

/// Takes the heads of the selected logs, in the order of their ids.
///
/// Uses `clock_timestamp()` because `now()` is when the transaction began, not when its rows become visible. A head is
/// the greater of the clock and the position after the previous head, so cursors ascend even if the clock does not. All
/// positions are multiples of 20 microseconds: see [`crate::protocol::Cursor`]. Logs arrive ordered by id and stay so,
/// which keeps two batches from deadlocking.
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

/// Takes the heads that are not locked, and creates those that do not exist.
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

/// Takes the heads of the logs, waiting for locks, then stores the changes with the cursors up to them.
///
/// It waits long enough for another push, but not for a longer lock, because it holds a connection meanwhile.
static PUSH: Sql = push_statement!(
    "",
    take_heads!(
        "
       and set_config('lock_timeout', '50', true) is not null"
    )
);

/// The same, only for logs whose heads are not locked: it waits for no lock.
///
/// Creating a new log has to wait for another session that is creating the same one, but not for long.
static PUSH_FREE: Sql = push_statement!(" for update skip locked", take_free_heads!());

/// [`PUSH_FREE`] for a single push, whose transaction sends a notification with its commit ([`super::announcement`]).
///
/// - `$22`: the channel; `$23`: the key for this notification; `$24`, `$25`: the text before and after the range that
///   was stored.
///
/// A push of which nothing is stored is not announced. The commit waits only briefly for the lock that every NOTIFY needs:
/// its holder may be a commit in another database that waits for a standby.
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

/// The same, only for logs that exist and whose heads are not locked.
static PUSH_PRESENT: Sql = push_statement!(
    " for update skip locked",
    take_heads!(
        "
       and l.log_id in (select log_id from found)"
    )
);

/// [`PUSH`] as a naive first attempt; see [`crate::failpoints::Failpoint::NoHeadRow`].
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

/// The statement's parameter types, with additional ones.
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

/// The statement's parameter types.
pub(super) const PUSH_TYPES: &[Type] = push_types![];
/// Those of the statement that notifies.
const NOTIFYING_TYPES: &[Type] = push_types![Type::TEXT, Type::BYTEA, Type::TEXT, Type::TEXT];

/// Returns the statements of this file, by name.
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
    /// Waits a little for locked heads.
    pub(super) any: &'static Sql,
    /// Leaves out logs whose heads are locked.
    pub(super) free: &'static Sql,
    /// Also leaves out logs that do not exist.
    pub(super) present: &'static Sql,
    /// Like `free` for a single push, with a notification in its transaction; `None` if that would not reach the
    /// replicas.
    pub(super) notifying: Option<&'static Sql>,
}

/// The forms for PostgreSQL itself.
pub(super) static PUSH_STATEMENTS: PushStatements =
    PushStatements { any: &PUSH, free: &PUSH_FREE, present: &PUSH_PRESENT, notifying: Some(&PUSH_NOTIFYING) };
