-- What a trigger of the tables' owner keeps without an error, or row-level security hides, is not taken for erased or trimmed: a
-- trigger that was made for inserts and returns `new`, which a delete does not have, keeps every row.
create function sync_refuse_kept(name text) returns void
language plpgsql as $$
begin
    raise exception using errcode = 'triggered_action_exception', message = format(
        'a trigger or rule on %s keeps rows that are to be deleted or changed: see to it that no BEFORE trigger returns null', name);
end
$$;

-- As before, all or none.
create or replace function sync_erase(user_id text) returns bigint
language plpgsql security definer as $$
#variable_conflict use_column
declare
    person uuid := sync_user_key(sync_erase.user_id);
    log sync_heads;
    logs uuid[] := '{}';
    headless uuid[];
    tables text[];
    erased bigint := 0;
    count bigint;
    ahead interval;
    clock timestamptz;
begin
    perform sync_check_name('user_id', sync_erase.user_id, 255);
    -- In the order in which replicas take heads; trimming is kept out first, as it takes heads last.
    for log in select h.* from sync_heads h where h.user_key = person order by h.log_id loop
        perform pg_advisory_xact_lock(sync_trim_lock(log.log_id));
        logs := logs || log.log_id;
    end loop;
    perform set_config('mana_sync.trimming', 'on', true);
    for log in select h.* from sync_heads h where h.log_id = any(logs) order by h.log_id for update loop
        tables := (select array_agg(distinct c.table_name) from sync_changes c where c.log_id = log.log_id);
        delete from sync_changes c where c.log_id = log.log_id;
        get diagnostics count = row_count;
        erased := erased + count;
        delete from sync_history t where t.log_id = log.log_id;
        get diagnostics count = row_count;
        erased := erased + count;
        perform from sync_changes c where c.log_id = log.log_id limit 1;
        if found then
            perform sync_refuse_kept('sync_changes');
        end if;
        perform from sync_history t where t.log_id = log.log_id limit 1;
        if found then
            perform sync_refuse_kept('sync_history');
        end if;
        -- Said of a position after all others: it is news to everybody.
        log.previous := log.head;
        log.head := log.head + interval '20 microseconds';
        insert into sync_erased as e (log_id, user_key, app_id, head, tables, erased_at)
        values (log.log_id, log.user_key, log.app_id, log.head, coalesce(tables, '{}'), now())
        on conflict (log_id) do update set head = greatest(e.head, excluded.head), tables = excluded.tables,
                                           erased_at = excluded.erased_at;
        perform sync_notify(log, null, coalesce(tables, '{}'), log.previous);
        ahead := greatest(ahead, log.head - clock_timestamp());
    end loop;
    -- A log that is made meanwhile has its head with its first change: it is not taken for one without.
    with gone as (
        delete from sync_changes c
        where c.user_id = sync_erase.user_id and not exists (select from sync_heads h where h.log_id = c.log_id)
        returning c.log_id
    )
    select count(*), array_agg(distinct g.log_id) into count, headless from gone g;
    erased := erased + count;
    delete from sync_history t where t.log_id = any(headless);
    get diagnostics count = row_count;
    erased := erased + count;
    perform from sync_changes c
    where c.user_id = sync_erase.user_id and not exists (select from sync_heads h where h.log_id = c.log_id) limit 1;
    if found then
        perform sync_refuse_kept('sync_changes');
    end if;
    perform from sync_history t where t.log_id = any(headless) limit 1;
    if found then
        perform sync_refuse_kept('sync_history');
    end if;
    perform set_config('mana_sync.trimming', '', true);
    if ahead > interval '0' then
        perform pg_sleep(least(extract(epoch from ahead), 1));
    end if;
    clock := clock_timestamp();
    delete from sync_heads h where h.log_id = any(logs) and h.head < clock;
    perform from sync_heads h where h.log_id = any(logs) and h.head < clock limit 1;
    if found then
        perform sync_refuse_kept('sync_heads');
    end if;
    update sync_heads h
    set head = e.head, previous = e.head, stored_changes = 0, stored_bytes = 0, untrimmed_since = null, deleted_since = null
    from sync_erased e where e.log_id = h.log_id and h.log_id = any(logs);
    delete from sync_erased e where e.erased_at < now() - interval '1 hour';
    return erased + sync_erase_before(sync_erase.user_id);
end
$$;

-- As before, all or none.
create or replace function sync_erase_before(person text) returns bigint
language plpgsql as $$
declare
    erased bigint := 0;
    remains boolean;
begin
    if to_regclass('sync_takeover') is not null then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = 'taking over the database of the server before is not finished: run `mana-sync migrate` again';
    end if;
    if to_regclass('sync_changes_before') is not null then
        execute 'delete from sync_changes_before b where b.user_id::text = $1' using person;
        get diagnostics erased = row_count;
        execute 'select exists (select from sync_changes_before b where b.user_id::text = $1)' using person into remains;
        if remains then
            perform sync_refuse_kept('sync_changes_before');
        end if;
    end if;
    return erased;
end
$$;

-- As before, all or none.
create or replace function sync_trim_rows(trimmed uuid[], losing text[], going bool[], keep_history bool)
returns table (rows bigint, gone bigint, bytes bigint)
language plpgsql security definer as $$
#variable_conflict use_column
declare
    asked bigint;
begin
    -- What goes is not erased, but kept in the history: the trigger need not look for it.
    perform set_config('mana_sync.trimming', 'on', true);
    with cut as materialized (
        select c.id, c.log_id, c.table_name, c.record_id, c.created_at, c.client_id, c.op, c.data, c.extra, c.size,
               u.lost::jsonb as lost, u.gone, array(select jsonb_object_keys(u.lost::jsonb)) as fields
        from unnest(trimmed, losing, going) as u (id, lost, gone)
        join sync_changes c on c.id = u.id
        for update of c
    ), kept as (
        insert into sync_history (trimmed_at, log_id, table_name, record_id, id, created_at, client_id, op, data,
                                  field_timestamps, extra)
        select now(), k.log_id, k.table_name, k.record_id, k.id, k.created_at, k.client_id, k.op,
               case k.op when 'delete' then k.lost
                   else (select coalesce(jsonb_object_agg(d.key, d.value), '{}') from jsonb_each(k.data) d where d.key = any(k.fields))
               end, k.lost, k.extra
        from cut k where keep_history
    ), shrunk as (
        update sync_changes c
        set data = c.data - k.fields, field_timestamps = c.field_timestamps - k.fields,
            size = sync_size(c.data - k.fields, c.field_timestamps - k.fields, c.extra)
        from cut k where c.id = k.id and not k.gone
        returning k.size - c.size as bytes
    ), removed as (
        delete from sync_changes c using cut k where c.id = k.id and k.gone
        returning k.size as bytes
    )
    select (select count(*) from cut), (select count(*) from shrunk) + (select count(*) from removed),
           (select count(*) from removed),
           coalesce((select sum(s.bytes) from shrunk s), 0)::int8 + coalesce((select sum(r.bytes) from removed r), 0)::int8
    into asked, rows, gone, bytes;
    -- Otherwise they would be kept in the history once more with each trimming.
    if rows < asked then
        perform sync_refuse_kept('sync_changes');
    end if;
    return next;
end
$$;

-- Replacing a function takes its settings away.
do $$
begin
    execute format('alter function sync_erase(text) set search_path = %I, pg_temp', current_schema());
    -- What row-level security hides from the owner (force row level security) is refused, not left there.
    alter function sync_erase(text) set row_security = off;
    execute format('alter function sync_trim_rows(uuid[], text[], bool[], bool) set search_path = %I, pg_temp', current_schema());
end
$$;
