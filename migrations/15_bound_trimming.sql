-- Trimming, the history and erasing, where they met others: a program that deletes meanwhile, readers of an old day, logs that
-- are made during an erasure, rows that programs store again.

-- As before; rows are locked before they are kept. Of rows that a program is deleting, nothing is kept once it has.
create or replace function sync_trim_rows(trimmed uuid[], losing text[], going bool[], keep_history bool)
returns table (rows bigint, gone bigint, bytes bigint)
language plpgsql security definer as $$
#variable_conflict use_column
begin
    -- What goes is not erased, but kept in the history: the trigger need not look for it.
    perform set_config('mana_sync.trimming', 'on', true);
    return query
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
    select (select count(*) from shrunk) + (select count(*) from removed), (select count(*) from removed),
           coalesce((select sum(s.bytes) from shrunk s), 0)::int8 + coalesce((select sum(r.bytes) from removed r), 0)::int8;
end
$$;

-- As before; nobody waits who need not. Whoever reads an old day keeps it, and pushes, which ask the history, stand behind
-- whoever waits for that: so it is not waited for, and one such day is enough for one call.
create or replace function sync_history_days(keep int) returns void
language plpgsql security definer as $$
declare
    one_at_a_time int8 := hashtextextended('sync_history_days', 7472696);
    today date := (clock_timestamp() at time zone 'UTC')::date;
    one date;
    part record;
    name text;
begin
    delete from sync_erased e where e.erased_at < now() - interval '1 hour';
    -- One at a time. Who needs a day that is not there waits for it; the others leave it to whoever is at it.
    -- Looked up in the tables of the catalog: what is known of a name is not forgotten by waiting.
    if keep > 0 and 2 > (
        select count(*) from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'sync_history'::regclass
          and c.relname in ('sync_history_' || to_char(today, 'YYYYMMDD'), 'sync_history_' || to_char(today + 1, 'YYYYMMDD'))
    ) then
        perform pg_advisory_xact_lock(one_at_a_time);
    elsif not pg_try_advisory_xact_lock(one_at_a_time) then
        return;
    end if;
    if keep > 0 then
        for one in select today + n from generate_series(0, 1) as n loop
            name := 'sync_history_' || to_char(one, 'YYYYMMDD');
            if not exists (
                select from pg_inherits i join pg_class c on c.oid = i.inhrelid
                where i.inhparent = 'sync_history'::regclass and c.relname = name
            ) then
                -- Made first and attached then: that leaves those who read the other days alone.
                execute format('create table %I (like sync_history including defaults including constraints)', name);
                execute format('alter table sync_history attach partition %I for values from (%L) to (%L)', name,
                               one::timestamp at time zone 'UTC', (one + 1)::timestamp at time zone 'UTC');
            end if;
        end loop;
    end if;
    perform set_config('lock_timeout', '50ms', true);
    for part in
        select c.oid::regclass as partition, to_date(right(c.relname, 8), 'YYYYMMDD') as day
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'sync_history'::regclass and c.relname ~ '^sync_history_\d{8}$'
        order by 2
    loop
        if part.day <= today - keep - 1 or keep = 0 then
            begin
                execute format('drop table %s', part.partition);
            exception when lock_not_available or deadlock_detected then
                raise notice 'the day % of sync_history is in use, and is dropped later', part.day;
                exit;
            end;
        end if;
    end loop;
end
$$;

-- Deletes what is left of a person in the table of the server before, until `mana-sync migrate --drop-old` drops it.
create function sync_erase_before(person text) returns bigint
language plpgsql as $$
declare
    erased bigint := 0;
begin
    if to_regclass('sync_takeover') is not null then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = 'taking over the database of the server before is not finished: run `mana-sync migrate` again';
    end if;
    if to_regclass('sync_changes_before') is not null then
        execute 'delete from sync_changes_before b where b.user_id::text = $1' using person;
        get diagnostics erased = row_count;
    end if;
    return erased;
end
$$;

-- As before; logs that are made meanwhile are left alone, changes and head. What the table of the server before has of the
-- user goes as well.
create or replace function sync_erase(user_id text) returns bigint
language plpgsql security definer as $$
#variable_conflict use_column
declare
    person uuid := sync_user_key(sync_erase.user_id);
    log sync_heads;
    logs uuid[] := '{}';
    tables text[];
    erased bigint := 0;
    count bigint;
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
        -- Said of a position after all others: it is news to everybody.
        log.previous := log.head;
        log.head := log.head + interval '20 microseconds';
        insert into sync_erased as e (log_id, user_key, app_id, head, tables, erased_at)
        values (log.log_id, log.user_key, log.app_id, log.head, coalesce(tables, '{}'), now())
        on conflict (log_id) do update set head = greatest(e.head, excluded.head), tables = excluded.tables,
                                           erased_at = excluded.erased_at;
        perform sync_notify(log, null, coalesce(tables, '{}'), log.previous);
    end loop;
    perform set_config('mana_sync.trimming', '', true);
    delete from sync_heads h where h.log_id = any(logs);
    delete from sync_erased e where e.erased_at < now() - interval '1 hour';
    return erased + sync_erase_before(sync_erase.user_id);
end
$$;

-- Bytes of a log's values and stamps that the records as they stand do not need: of all but the write that wins of each field,
-- by the rules of sync_records. An insert has no stamps beside its values, a delete nothing else.
create function sync_garbage_of(log uuid) returns bigint
language plpgsql stable as $$
declare
    garbage bigint;
begin
    select coalesce(sum(octet_length(w.field) + coalesce(octet_length(w.value::text), 0) + 6
                        + case w.op when 'update' then octet_length(w.field) + 32 when 'delete' then 26 else 0 end), 0)
    into garbage
    from (
        select f.key as field, f.value, c.op, row_number() over (
            partition by c.table_name, c.record_id, f.key
            order by coalesce(c.stamp, c.field_timestamps ->> f.key, sync_iso(c.created_at)) collate "C" desc, c.created_at desc
        ) as place
        from (
            select c.table_name, c.record_id, c.created_at, c.op, c.field_timestamps,
                   case c.op when 'delete' then jsonb_build_object('deletedAt', null) else c.data end as data,
                   case c.op when 'insert' then coalesce(sync_stamp(case jsonb_typeof(c.data -> 'updatedAt') when 'string' then c.data ->> 'updatedAt' end),
                                                         sync_stamp(case jsonb_typeof(c.data -> 'createdAt') when 'string' then c.data ->> 'createdAt' end),
                                                         '1970-01-01T00:00:00.000Z')
                   end as stamp
            from sync_changes c where c.log_id = log
            offset 0
        ) c, lateral jsonb_each(c.data) as f
    ) w
    where w.place > 1;
    return garbage;
end
$$;

-- As before; garbage is counted by fields that lost, so that a log's records cannot hide that of others.
create or replace function sync_usage_of(log uuid)
returns table (user_id text, app_id text, changes bigint, bytes bigint, records bigint, garbage bigint,
               history_changes bigint, history_bytes bigint)
language plpgsql stable as $$
#variable_conflict use_column
begin
    return query
    select h.user_id, h.app_id, c.changes, c.bytes, c.records, least(sync_garbage_of(log), c.bytes), t.changes, t.bytes
    from sync_heads h, lateral (
        select count(*) as changes, coalesce(sum(s.size), 0)::bigint as bytes,
               count(distinct (s.table_name, s.record_id)) as records
        from sync_changes s where s.log_id = log
    ) c, lateral (
        select count(*) as changes, coalesce(sum(sync_size(s.data, s.field_timestamps, s.extra)), 0)::bigint as bytes
        from sync_history s where s.log_id = log
    ) t
    where h.log_id = log;
end
$$;

-- As before; a row whose id was stored and trimmed away is not stored again, as it would not be while it is in the log.
create or replace function sync_accept_row() returns trigger
language plpgsql security definer as $$
declare
    stamps jsonb := sync_object('field_meta', new.field_meta) || sync_object('field_timestamps', new.field_timestamps);
    latest text := sync_latest_stamp();
begin
    new.client_id := coalesce(nullif(new.client_id, ''), 'sql');
    perform sync_check_name('user_id', new.user_id, 255), sync_check_name('app_id', new.app_id, 255),
            sync_check_name('table_name', new.table_name, 255), sync_check_name('record_id', new.record_id, 1024),
            sync_check_name('client_id', new.client_id, 255), sync_check_value('data', new.data);
    if new.op not in ('insert', 'update', 'delete') then
        -- The table's own check refuses it.
        return new;
    end if;
    new.extra := sync_check_extra('extra, actor, origin and space_id', sync_object('extra', new.extra)
        || jsonb_strip_nulls(jsonb_build_object('origin', new.origin, 'spaceId', new.space_id,
                                                'schemaVersion', new.schema_version))
        || case when coalesce(new.actor, 'null') = 'null' then '{}' else jsonb_build_object('actor', new.actor) end);
    new.field_meta := null;
    new.schema_version := null;
    new.actor := null;
    new.origin := null;
    new.space_id := null;
    new.id := coalesce(new.id, gen_random_uuid());
    new.held := null;
    new.log_id := sync_log_id(new.user_id, new.app_id);
    if sync_in_history(new.log_id, new.id) then return null; end if;
    new.created_at := sync_next_position(new.log_id, new.user_id, new.app_id);
    select * from sync_fold_row(new.op, new.data, stamps, latest, sync_iso(new.created_at))
    into new.op, new.data, new.field_timestamps;
    new.size := sync_size(new.data, new.field_timestamps, new.extra);
    return new;
end
$$;

-- Replacing a function takes its settings away.
do $$
begin
    execute format('alter function sync_trim_rows(uuid[], text[], bool[], bool) set search_path = %I, pg_temp', current_schema());
    execute format('alter function sync_history_days(int) set search_path = %I, pg_temp', current_schema());
    execute format('alter function sync_erase(text) set search_path = %I, pg_temp', current_schema());
    execute format('alter function sync_accept_row() set search_path = %I, pg_temp', current_schema());
end
$$;
