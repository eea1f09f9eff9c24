-- The log of one user in one app, and the changes in it.

create table sync_heads (
    -- Names the log: derived from user and app (protocol/keys.rs), so that it is known without asking and the
    -- indexes below stay narrow however long a user id is.
    log_id   uuid primary key,
    -- Names the user, likewise.
    user_key uuid not null,
    user_id  text not null,
    app_id   text not null,
    -- The cursor of the newest change. The row's lock makes pushes to one log commit in cursor order.
    head     timestamptz not null,
    -- The head before the newest push: tells a listener whether it missed a push in between.
    previous timestamptz not null
)
-- Every push updates its head and no index has a column that changes: with room in the page the update is a
-- heap-only one.
with (fillfactor = 60);

-- The reconciler asks for all logs of the users that are connected.
create index sync_heads_by_user on sync_heads (user_key);

create table sync_changes (
    -- Derived from the push (protocol/retry.rs): what is sent again is refused by this key.
    id               uuid primary key,
    app_id           text not null,
    table_name       text not null,
    record_id        text not null,
    user_id          text not null,
    op               text not null constraint sync_changes_op check (op in ('insert', 'update', 'delete')),
    data             jsonb,
    field_timestamps jsonb not null default '{}',
    client_id        text not null,
    -- The cursor: unique and ascending within a log, always an even number of microseconds.
    created_at       timestamptz not null,
    log_id           uuid not null,
    -- Bytes of data and field_timestamps as JSON: a page is cut by their sum, without reading them.
    size             integer not null default 0,
    -- Stamps that were ahead of the allowed skew, as the writing device holds them: by field (protocol/merge.rs).
    held             jsonb
);

-- Changes of (user, app), of (user, app, table) and of a record, by created_at.
create unique index sync_changes_by_log on sync_changes (log_id, created_at);
create index sync_changes_by_table on sync_changes (log_id, table_name, created_at);
create index sync_changes_by_record on sync_changes (log_id, table_name, record_id, created_at);

-- The few changes whose device holds later stamps than are stored.
create index sync_changes_held on sync_changes (log_id, client_id, table_name, record_id) where held is not null;
