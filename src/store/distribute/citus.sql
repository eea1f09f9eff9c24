-- Objects of a bucket on Citus, replacing those that do not work there: see citus.rs. Runs in the bucket's schema.

-- One row. Joining it makes Citus insert rows from arrays where the tables are; without it they would be fetched from
-- there and sent back.
create table if not exists sync_anchor (one boolean primary key default true check (one));
insert into sync_anchor values (true) on conflict do nothing;

-- A position this many steps after another. Expressions sent to other servers must be immutable, which adding an
-- arbitrary interval is not: its days and months depend on the time zone; microseconds do not.
create or replace function sync_position(at timestamptz, steps int8) returns timestamptz
language sql immutable strict parallel safe as $$
    select at + steps * interval '20 microseconds'
$$;

-- The statement of batch.rs, with the same parameters in the same order, and `free_only`: whether to leave out logs
-- whose heads are locked. Each statement in it is one that Citus forwards unchanged. Replicas of the previous version
-- call their own variant, which has no `trimmed_past`.
create or replace function sync_push_many(
    logs uuid[], user_keys uuid[], user_ids text[], app_ids text[], counts int8[],
    push_logs uuid[], row_pushes int4[], before_heads int4[], ids uuid[], clients text[],
    table_names text[], record_ids text[], ops text[], data text[], stamps text[], held text[], extra text[], sizes int4[],
    bytes int8[], maybe_trimmed uuid[], trimmed_past timestamptz, free_only boolean
)
returns table (log_id uuid, head timestamptz, previous timestamptz, known_logs uuid[])
language plpgsql set plan_cache_mode = auto set lock_timeout = '5s' as $$
#variable_conflict use_column
declare
    known uuid[];
    trimmed uuid[];
    present uuid[];
    free uuid[];
    locked uuid[] := '{}';
    at timestamptz;
    taken record;
    heads timestamptz[] := '{}';
    taken_logs uuid[] := '{}';
    taken_users text[] := '{}';
    taken_apps text[] := '{}';
begin
    if free_only then
        with free as materialized (
            select h.log_id from sync_heads h where h.log_id = any(logs) for update skip locked
        )
        select (select array_agg(s.log_id) from sync_changes s where s.id = any(ids)),
               (select array_agg(f.log_id) from free f),
               (select array_agg(h.log_id) from sync_heads h where h.log_id = any(logs)),
               (select array_agg(h.log_id) from sync_heads h
                where h.log_id = any(logs) and greatest(h.trimmed_to, h.trim_horizon) > trimmed_past)
        into known, free, present, trimmed;
        if coalesce(cardinality(present), 0) > coalesce(cardinality(free), 0) then
            locked := array(select p from unnest(present) as p where (p = any(free)) is not true);
        end if;
        if coalesce(cardinality(present), 0) < cardinality(logs) then
            -- A new log waits for another session that is creating the same one, but not for long.
            perform set_config('lock_timeout', '100', true);
        end if;
    else
        select (select array_agg(s.log_id) from sync_changes s where s.id = any(ids)),
               (select array_agg(h.log_id) from sync_heads h
                where h.log_id = any(logs) and greatest(h.trimmed_to, h.trim_horizon) > trimmed_past)
        into known, trimmed;
        -- It holds a connection while waiting for a locked head; the replica will retry.
        perform set_config('lock_timeout', '50', true);
    end if;
    if cardinality(maybe_trimmed) > 0 then
        select known || array_agg(t.log_id) into known
        from sync_history t where t.id = any(maybe_trimmed) and t.log_id = any(logs);
    end if;
    if trimmed is not null then
        -- Trimmed with a shorter horizon, as a command may: any of these rows may be in the history.
        select known || array_agg(t.log_id) into known
        from sync_history t where t.id = any(ids) and t.log_id = any(trimmed);
    end if;
    known_logs := known;
    at := date_bin('20 microseconds', clock_timestamp(), 'epoch');
    for taken in
        insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous,
                                     untrimmed_since, stored_changes, stored_bytes)
        select l.log_id, l.user_key, l.user_id, l.app_id, sync_position(at, l.changes - 1), 'epoch', at, l.changes, l.bytes
        from sync_anchor cross join unnest(logs, user_keys, user_ids, app_ids, counts, bytes)
                 as l (log_id, user_key, user_id, app_id, changes, bytes)
        where (l.log_id = any(known)) is not true and (l.log_id = any(locked)) is not true
        on conflict (log_id) do update set
            previous = h.head,
            head = greatest(excluded.head, sync_position(h.head, excluded.stored_changes)),
            untrimmed_since = coalesce(h.untrimmed_since, excluded.untrimmed_since),
            stored_changes = h.stored_changes + excluded.stored_changes,
            stored_bytes = h.stored_bytes + excluded.stored_bytes
        returning h.log_id, h.user_id, h.app_id, h.head, h.previous
    loop
        taken_logs := taken_logs || taken.log_id;
        taken_users := taken_users || taken.user_id;
        taken_apps := taken_apps || taken.app_id;
        heads := heads || taken.head;
        log_id := taken.log_id;
        head := taken.head;
        previous := taken.previous;
        return next;
    end loop;
    if taken_logs = '{}' then
        return next;
        return;
    end if;
    insert into sync_changes (id, log_id, user_id, app_id, client_id, table_name, record_id, op, data,
                              field_timestamps, held, extra, size, created_at)
    select r.id, t.log_id, t.user_id, t.app_id, clients[r.push], r.table_name, r.record_id, r.op,
           r.data::jsonb, r.stamps::jsonb,
           case when r.held like '"%' then sync_claimed_stamps(r.held, r.data::jsonb) else r.held::jsonb end,
           r.extra::jsonb, r.size, sync_position(t.head, -r.before_head)
    from sync_anchor
    cross join unnest(row_pushes, before_heads, ids, table_names, record_ids, ops, data, stamps, held, extra, sizes)
             as r (push, before_head, id, table_name, record_id, op, data, stamps, held, extra, size)
    join unnest(taken_logs, taken_users, taken_apps, heads) as t (log_id, user_id, app_id, head)
      on t.log_id = push_logs[r.push];
end
$$;

-- As elsewhere, but the clock is read before the statement, whose conflict clause must be immutable.
create or replace function sync_take_head(log uuid, of_user text, of_app text, changes int, out head timestamptz, out previous timestamptz)
language plpgsql as $$
declare
    at timestamptz := date_bin('20 microseconds', clock_timestamp(), 'epoch');
begin
    insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous, untrimmed_since)
    values (log, sync_user_key(of_user), of_user, of_app, sync_position(at, changes - 1), 'epoch', at)
    on conflict (log_id) do update set
        previous = h.head,
        head = greatest(excluded.head, sync_position(h.head, changes)),
        untrimmed_since = coalesce(h.untrimmed_since, excluded.untrimmed_since)
    returning h.head, h.previous into head, previous;
end
$$;

-- As elsewhere, but the notification is sent from here, where replicas listen, not from where the rows are.
create or replace function sync_store_rows(rows sync_row[], log uuid, of_user text, of_app text, client text) returns void
language plpgsql as $$
declare
    fresh sync_row[];
    count int;
    known uuid[];
    taken record;
    head sync_heads;
begin
    select array_agg(t.id) into known from sync_history t
    where t.log_id = log and t.id = any(array(select r.id from unnest(rows) as r));
    fresh := (select array_agg(r order by n) from (
        select distinct on (rows[n].id) n, rows[n] as r from generate_subscripts(rows, 1) as n
        where (rows[n].id = any(known)) is not true order by rows[n].id, n
    ) as once);
    count := coalesce(cardinality(fresh), 0);
    if count = 0 then
        return;
    end if;
    taken := sync_take_head(log, of_user, of_app, count);
    insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at,
                              log_id, size, held, extra)
    select r.id, of_app, r.table_name, r.record_id, of_user, r.op, r.data, r.field_timestamps, client,
           sync_position(taken.head, r.ordinality - count), log, r.size, r.held, r.extra
    from unnest(fresh) with ordinality as r;
    update sync_heads h set stored_changes = h.stored_changes + count,
                            stored_bytes = h.stored_bytes + (select sum(r.size) from unnest(fresh) as r)
    where h.log_id = log;
    if coalesce(current_setting('mana_sync.notify', true), '') not in ('off', 'false', 'no', '0') then
        select h.* into head from sync_heads h where h.log_id = log;
        perform sync_notify(head, client, array(select distinct r.table_name from unnest(fresh) as r), taken.previous);
    end if;
end
$$;

-- Stores a row that a program inserts into the view of the main schema, as sync_accept_row does elsewhere. Returns the
-- row as stored; null if its id was stored and trimmed away before, in which case it is not stored again.
create or replace function sync_store_program_row(given jsonb) returns jsonb
language plpgsql as $$
declare
    new sync_changes := jsonb_populate_record(null::sync_changes, given);
    stamps jsonb := sync_object('field_meta', new.field_meta) || sync_object('field_timestamps', new.field_timestamps);
begin
    new.client_id := coalesce(nullif(new.client_id, ''), 'sql');
    perform sync_check_name('user_id', new.user_id, 255), sync_check_name('app_id', new.app_id, 255),
            sync_check_name('table_name', new.table_name, 255), sync_check_name('record_id', new.record_id, 1024),
            sync_check_name('client_id', new.client_id, 255), sync_check_value('data', new.data);
    new.extra := sync_check_extra('extra, actor, origin and space_id', sync_object('extra', new.extra)
        || jsonb_strip_nulls(jsonb_build_object('origin', new.origin, 'spaceId', new.space_id,
                                                'schemaVersion', new.schema_version))
        || case when coalesce(new.actor, 'null') = 'null' then '{}' else jsonb_build_object('actor', new.actor) end);
    new.id := coalesce(new.id, gen_random_uuid());
    new.log_id := sync_log_id(new.user_id, new.app_id);
    if sync_in_history(new.log_id, new.id) then return null; end if;
    new.created_at := (sync_take_head(new.log_id, new.user_id, new.app_id, 1)).head;
    if new.op in ('insert', 'update', 'delete') then
        select * from sync_fold_row(new.op, new.data, stamps, sync_latest_stamp(), sync_iso(new.created_at))
        into new.op, new.data, new.field_timestamps;
    end if;
    new.size := sync_size(new.data, new.field_timestamps, new.extra);
    insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at,
                              log_id, size, extra)
    values (new.id, new.app_id, new.table_name, new.record_id, new.user_id, new.op, new.data,
            coalesce(new.field_timestamps, '{}'), new.client_id, new.created_at, new.log_id, new.size, new.extra);
    return to_jsonb(new);
end
$$;

-- As elsewhere, but one statement after another. Combined with the others, the first would have its rows copied to all
-- servers, and nothing could be trimmed while one of them is away.
create or replace function sync_trim_rows(trimmed uuid[], losing text[], going bool[], keep_history bool)
returns table (rows bigint, gone bigint, bytes bigint)
language plpgsql security definer as $$
#variable_conflict use_column
declare
    asked bigint;
    changed record;
begin
    perform from sync_changes c where c.id = any(trimmed) order by c.id for update;
    get diagnostics asked = row_count;
    if keep_history then
        -- A volatile function has the rows fetched to here and sent back. Without one, Citus 13 writes a statement that
        -- PostgreSQL does not understand.
        insert into sync_history (trimmed_at, log_id, table_name, record_id, id, created_at, client_id, op, data,
                                  field_timestamps, extra)
        select clock_timestamp(), c.log_id, c.table_name, c.record_id, c.id, c.created_at, c.client_id, c.op,
               case when c.op = 'delete' then u.lost::jsonb
                   else (select coalesce(jsonb_object_agg(d.key, d.value), '{}') from jsonb_each(c.data) d where u.lost::jsonb ? d.key)
               end, u.lost::jsonb, c.extra
        from unnest(trimmed, losing) as u (id, lost) join sync_changes c on c.id = u.id;
    end if;
    rows := 0;
    gone := 0;
    bytes := 0;
    for changed in
        update sync_changes c
        set data = c.data - k.fields, field_timestamps = c.field_timestamps - k.fields,
            size = sync_size(c.data - k.fields, c.field_timestamps - k.fields, c.extra)
        from (
            select b.id, b.size, array(select jsonb_object_keys(u.lost::jsonb)) as fields
            from unnest(trimmed, losing, going) as u (id, lost, gone) join sync_changes b on b.id = u.id
            where not u.gone
        ) k
        where c.id = k.id
        returning k.size - c.size as bytes, coalesce(c.data ?| k.fields, false) or c.field_timestamps ?| k.fields as is_kept
    loop
        rows := rows + (not changed.is_kept)::int;
        bytes := bytes + changed.bytes;
    end loop;
    for changed in
        delete from sync_changes c using unnest(trimmed, going) as u (id, gone) where c.id = u.id and u.gone
        returning c.size as bytes
    loop
        rows := rows + 1;
        gone := gone + 1;
        bytes := bytes + changed.bytes;
    end loop;
    if rows < asked then
        perform sync_refuse_kept('sync_changes');
    end if;
    return next;
end
$$;

-- As elsewhere, but two weeks ahead: a day can be made and dropped only while all servers are there. Two at a time, because
-- a bucket cannot be moved meanwhile.
create or replace function sync_history_days(keep int) returns void
language plpgsql security definer as $$
declare
    ahead constant int := 14;
    one_at_a_time int8 := hashtextextended('sync_history_days', 7472696);
    today date := (clock_timestamp() at time zone 'UTC')::date;
    made int := 0;
    one date;
    part record;
    name text;
    is_over boolean;
begin
    delete from sync_erased e where e.erased_at < now() - interval '1 hour';
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
        for one in select today + n from generate_series(0, ahead) as n loop
            exit when made = 2;
            name := 'sync_history_' || to_char(one, 'YYYYMMDD');
            if not exists (
                select from pg_inherits i join pg_class c on c.oid = i.inhrelid
                where i.inhparent = 'sync_history'::regclass and c.relname = name
            ) then
                execute format('create table %I (like sync_history including defaults including constraints)', name);
                execute format('alter table %I replica identity full', name);
                execute format('alter table sync_history attach partition %I for values from (%L) to (%L)', name,
                               one::timestamp at time zone 'UTC', (one + 1)::timestamp at time zone 'UTC');
                made := made + 1;
            end if;
        end loop;
    end if;
    perform set_config('lock_timeout', '50ms', true);
    for part in
        select c.oid::regclass as partition, to_date(right(c.relname, 8), 'YYYYMMDD') as day, c.relreplident = 'f' as is_named
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'sync_history'::regclass and c.relname ~ '^sync_history_\d{8}$'
        order by 2
    loop
        is_over := part.day <= today - keep - 1 or keep = 0;
        if is_over or not part.is_named then
            begin
                execute format(case when is_over then 'drop table %s' else 'alter table %s replica identity full' end, part.partition);
            exception when lock_not_available or deadlock_detected then
                raise notice 'the day % of sync_history is in use, and is seen to later', part.day;
                exit;
            end;
        end if;
    end loop;
end
$$;

-- As elsewhere, with one statement per table: a function that reads tables must not be called from where they are.
create or replace function sync_usage_of(log uuid)
returns table (user_id text, app_id text, changes bigint, bytes bigint, records bigint, garbage bigint,
               history_changes bigint, history_bytes bigint)
language plpgsql stable as $$
#variable_conflict use_column
declare
    head sync_heads;
begin
    select h.* into head from sync_heads h where h.log_id = log;
    if head.log_id is null then
        return;
    end if;
    user_id := head.user_id;
    app_id := head.app_id;
    select count(*), coalesce(sum(s.size), 0), count(distinct (s.table_name, s.record_id)) into changes, bytes, records
    from sync_changes s where s.log_id = log;
    garbage := least(sync_garbage_of(log), bytes);
    select count(*), coalesce(sum(sync_size(s.data, s.field_timestamps, s.extra)), 0) into history_changes, history_bytes
    from sync_history s where s.log_id = log;
    return next;
end
$$;

create or replace function sync_usage(only_user text default null)
returns table (user_id text, app_id text, changes bigint, bytes bigint, records bigint, garbage bigint,
               history_changes bigint, history_bytes bigint)
language plpgsql stable as $$
#variable_conflict use_column
declare
    head sync_heads;
begin
    for head in select h.* from sync_heads h where only_user is null or h.user_key = sync_user_key(only_user) loop
        return query select u.* from sync_usage_of(head.log_id) u;
    end loop;
end
$$;

-- The push is called where the tables are, the others from the main schema. All must find the tables of this bucket.
revoke execute on function sync_store_program_row(jsonb) from public;
do $$
declare
    called text;
begin
    perform create_distributed_function(
        'sync_push_many(uuid[], uuid[], text[], text[], int8[], uuid[], int4[], int4[], uuid[], text[], text[], text[], text[], text[], text[],
                        text[], text[], int4[], int8[], uuid[], timestamptz, boolean)',
        colocate_with := 'sync_heads');
    -- By their parameters, because there are two pushes.
    for called in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace = current_schema()::regnamespace
          and p.proname in ('sync_push_many', 'sync_store_program_row', 'sync_records', 'sync_usage', 'sync_usage_of',
                            'sync_trim_rows', 'sync_history_days')
    loop
        execute format('alter function %s set search_path = %I, pg_temp', called, current_schema());
    end loop;
    -- They are called in sessions that use generic plans, which Citus does not make for statements with several parts.
    foreach called in array array['sync_trim_rows', 'sync_mark_trimmed', 'sync_erase', 'sync_usage', 'sync_usage_of'] loop
        execute format('alter function %I set plan_cache_mode = auto', called);
    end loop;
end
$$;
