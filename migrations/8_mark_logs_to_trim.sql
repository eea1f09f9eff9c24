-- What trimming needs to know of a log (docs/adr/0001-trim-in-place.md). Everything rides on the update that a push makes
-- of its head anyway.

alter table sync_heads
    -- Rows up to this position have been trimmed; those after it are too young, or have not been looked at.
    add column trimmed_to timestamptz not null default 'epoch',
    -- When the oldest row after trimmed_to was stored, about; null if there is none. A push writes it only where it is
    -- null: once for each time that the log is trimmed. Logs that are there already, and those that older replicas or a
    -- takeover make, count from now: nothing is trimmed in a hurry after an upgrade.
    add column untrimmed_since timestamptz default now(),
    -- When the oldest delete was stored that has not been purged, about; null if there is none. Epoch: nobody has looked.
    add column deleted_since timestamptz default 'epoch',
    -- What is stored in the log: rows, and bytes of their values, stamps and other members (sync_changes.size). Counted by
    -- pushes, and counted anew whenever the log is trimmed: that is when what programs insert or delete shows.
    add column stored_changes bigint not null default 0,
    add column stored_bytes bigint not null default 0;

-- Neither column changes with every push, so the head's update stays a heap-only one.
create index sync_heads_untrimmed on sync_heads (untrimmed_since) where untrimmed_since is not null;
create index sync_heads_deleted on sync_heads (deleted_since) where deleted_since is not null;

alter table sync_changes
    -- Of a delete: whether rows of its record were trimmed away after it was stored (protocol/merge.rs).
    add column rows_trimmed boolean;

-- What was taken out of the log, one partition for each day on which that happened.
create table sync_history (
    trimmed_at       timestamptz not null,
    log_id           uuid not null,
    table_name       text not null,
    record_id        text not null,
    -- The row of sync_changes, its position, who wrote it, and what it was.
    id               uuid not null,
    created_at       timestamptz not null,
    client_id        text not null,
    op               text not null,
    -- What was taken out, by field: values and, of inserts and deletes as well, stamps. A row may be taken out bit by bit.
    data             jsonb not null,
    field_timestamps jsonb not null,
    extra            jsonb
) partition by range (trimmed_at);
create index sync_history_by_id on sync_history (id);
create index sync_history_by_record on sync_history (log_id, table_name, record_id);

-- Whether a change has been stored and trimmed away since: then it is not stored again. A function, so that a push whose
-- changes are too young for that does not open the partitions.
create function sync_in_history(log uuid, change uuid) returns boolean
language plpgsql stable as $$
begin
    return exists (select from sync_heads h where h.log_id = log and h.trimmed_to > 'epoch')
        and exists (select from sync_history t where t.id = change and t.log_id = log);
end
$$;

-- As before; a log that had nothing to trim has something from now on.
create or replace function sync_take_head(log uuid, of_user text, of_app text, changes int, out head timestamptz, out previous timestamptz)
language plpgsql as $$
begin
    insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous, untrimmed_since)
    values (log, sync_user_key(of_user), of_user, of_app,
            date_bin('20 microseconds', clock_timestamp(), 'epoch') + (changes - 1) * interval '20 microseconds', 'epoch',
            clock_timestamp())
    on conflict (log_id) do update set
        previous = h.head,
        head = greatest(date_bin('20 microseconds', clock_timestamp(), 'epoch') + (changes - 1) * interval '20 microseconds',
                        h.head + changes * interval '20 microseconds'),
        untrimmed_since = coalesce(h.untrimmed_since, excluded.untrimmed_since)
    returning h.head, h.previous into head, previous;
end
$$;

-- As before; a log without changes has nothing to trim.
create or replace function sync_lock_head(log uuid, of_user text, of_app text) returns void
language plpgsql as $$
begin
    perform from sync_heads where log_id = log for update;
    if not found then
        insert into sync_heads (log_id, user_key, user_id, app_id, head, previous, untrimmed_since)
        values (log, sync_user_key(of_user), of_user, of_app, 'epoch', 'epoch', null) on conflict do nothing;
        perform from sync_heads where log_id = log for update;
    end if;
end
$$;

-- As before, without what was stored and trimmed away; and it counts.
create or replace function sync_store_rows(rows sync_row[], log uuid, of_user text, of_app text, client text) returns void
language plpgsql as $$
declare
    fresh sync_row[] := (select array_agg(r order by n) from (
        select distinct on (rows[n].id) n, rows[n] as r from generate_subscripts(rows, 1) as n
        where not sync_in_history(log, rows[n].id) order by rows[n].id, n
    ) as once);
    count int := coalesce(cardinality(fresh), 0);
    taken record;
begin
    if count = 0 then
        return;
    end if;
    taken := sync_take_head(log, of_user, of_app, count);
    insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at,
                              log_id, size, held, extra)
    select r.id, of_app, r.table_name, r.record_id, of_user, r.op, r.data, r.field_timestamps, client,
           taken.head - (count - r.ordinality) * interval '20 microseconds', log, r.size, r.held, r.extra
    from unnest(fresh) with ordinality as r;
    update sync_heads h set stored_changes = h.stored_changes + count,
                            stored_bytes = h.stored_bytes + (select sum(r.size) from unnest(fresh) as r)
    where h.log_id = log;
    if coalesce(current_setting('mana_sync.notify', true), '') not in ('off', 'false', 'no', '0') then
        perform sync_notify(h, client, (select array_agg(distinct r.table_name) from unnest(fresh) as r), taken.previous)
        from sync_heads h where h.log_id = log;
    end if;
end
$$;
