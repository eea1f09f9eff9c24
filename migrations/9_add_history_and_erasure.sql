-- The days of sync_history, erasing a person, and what is stored for whom.

-- Trimming turns rows over: vacuum early, so that their space comes back.
alter table sync_changes set (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05
);
alter table sync_heads set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.1);

-- The number by which transactions that take rows out of a log exclude each other: of trimming, and of erasing.
create function sync_trim_lock(log uuid) returns int8
language plpgsql immutable strict parallel safe as $$
begin
    return hashtextextended(log::text, 7472696);
end
$$;

-- Makes the days of sync_history that are needed now, and drops those that are older than `keep` days: whole tables, which
-- costs nothing. A day that is in use is left for the next time.
create function sync_history_days(keep int) returns void
language plpgsql security definer as $$
declare
    today date := (clock_timestamp() at time zone 'UTC')::date;
    one date;
    part record;
    name text;
begin
    delete from sync_erased e where e.erased_at < now() - interval '1 hour';
    -- One at a time; the others find it done.
    perform pg_advisory_xact_lock(hashtextextended('sync_history_days', 7472696));
    if keep > 0 then
        for one in select today + n from generate_series(0, 1) as n loop
            name := 'sync_history_' || to_char(one, 'YYYYMMDD');
            if to_regclass(name) is null then
                -- Made first and attached then: that leaves those who read the other days alone.
                execute format('create table %I (like sync_history including defaults including constraints)', name);
                execute format('alter table sync_history attach partition %I for values from (%L) to (%L)', name,
                               one::timestamp at time zone 'UTC', (one + 1)::timestamp at time zone 'UTC');
            end if;
        end loop;
    end if;
    for part in
        select c.oid::regclass as partition, to_date(right(c.relname, 8), 'YYYYMMDD') as day
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'sync_history'::regclass and c.relname ~ '^sync_history_\d{8}$'
    loop
        if part.day <= today - keep - 1 or keep = 0 then
            begin
                set local lock_timeout = '1s';
                execute format('drop table %s', part.partition);
            exception when lock_not_available or deadlock_detected then
                raise notice 'the day % of sync_history is in use, and is dropped later', part.day;
            end;
        end if;
    end loop;
end
$$;

-- Programs erase people by deleting their rows: what was trimmed of the same records goes with them, and is not counted
-- any more.
create function sync_forget_deleted() returns trigger
language plpgsql security definer as $$
begin
    delete from sync_history t using (
        select distinct g.log_id, g.table_name, g.record_id from deleted_rows g
    ) as r
    where t.log_id = r.log_id and t.table_name = r.table_name and t.record_id = r.record_id
        and not exists (select from sync_changes c where c.log_id = r.log_id and c.table_name = r.table_name
                                                     and c.record_id = r.record_id);
    -- In the order in which replicas take heads.
    perform from sync_heads h where h.log_id in (select g.log_id from deleted_rows g) order by h.log_id for update;
    update sync_heads h set stored_changes = h.stored_changes - g.changes, stored_bytes = h.stored_bytes - g.bytes
    from (select d.log_id, count(*) as changes, sum(d.size) as bytes from deleted_rows d group by d.log_id) g
    where h.log_id = g.log_id;
    return null;
end
$$;

-- Trimming itself leaves what it takes out in the history, and says so.
create trigger sync_changes_forget after delete on sync_changes referencing old table as deleted_rows
for each statement when (coalesce(current_setting('mana_sync.trimming', true), '') <> 'on')
execute function sync_forget_deleted();

-- Logs that were erased a moment ago, for an hour: whom replicas have to tell, and of which tables. No user's id is in it.
create table sync_erased (
    log_id    uuid primary key,
    user_key  uuid not null,
    app_id    text not null,
    -- A position after all that there were.
    head      timestamptz not null,
    tables    text[] not null,
    erased_at timestamptz not null
);
create index sync_erased_by_user on sync_erased (user_key);

-- Erases a user: changes, what was trimmed of them, and the logs. Their devices are woken at the commit; one that comes back
-- with an old cursor is served from the beginning of what is stored from then on. Answers how many rows were deleted.
create function sync_erase(user_id text) returns bigint
language plpgsql security definer as $$
#variable_conflict use_column
declare
    person uuid := sync_user_key(sync_erase.user_id);
    log sync_heads;
    tables text[];
    erased bigint := 0;
    count bigint;
begin
    perform sync_check_name('user_id', sync_erase.user_id, 255);
    -- In the order in which replicas take heads; trimming is kept out first, as it takes heads last.
    for log in select h.* from sync_heads h where h.user_key = person order by h.log_id loop
        perform pg_advisory_xact_lock(sync_trim_lock(log.log_id));
    end loop;
    perform set_config('mana_sync.trimming', 'on', true);
    for log in select h.* from sync_heads h where h.user_key = person order by h.log_id for update loop
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
    delete from sync_heads h where h.user_key = person;
    delete from sync_erased e where e.erased_at < now() - interval '1 hour';
    return erased;
end
$$;

-- What is stored in one log. Bytes are those of values, stamps and other members; garbage is how many of them the records
-- as they stand (sync_records) do not need.
create function sync_usage_of(log uuid)
returns table (user_id text, app_id text, changes bigint, bytes bigint, records bigint, garbage bigint,
               history_changes bigint, history_bytes bigint)
language plpgsql stable as $$
#variable_conflict use_column
begin
    return query
    select h.user_id, h.app_id, c.changes, c.bytes, c.records, greatest(c.bytes - r.bytes, 0), t.changes, t.bytes
    from sync_heads h, lateral (
        select count(*) as changes, coalesce(sum(s.size), 0)::bigint as bytes,
               count(distinct (s.table_name, s.record_id)) as records
        from sync_changes s where s.log_id = log
    ) c, lateral (
        select coalesce(sum(sync_size(s.data, s.field_timestamps, null)), 0)::bigint as bytes
        from sync_records(h.user_id, h.app_id) s
    ) r, lateral (
        select count(*) as changes, coalesce(sum(sync_size(s.data, s.field_timestamps, s.extra)), 0)::bigint as bytes
        from sync_history s where s.log_id = log
    ) t
    where h.log_id = log;
end
$$;

-- The same of every log, or of every log of one user. Reads everything: for now and then.
create function sync_usage(only_user text default null)
returns table (user_id text, app_id text, changes bigint, bytes bigint, records bigint, garbage bigint,
               history_changes bigint, history_bytes bigint)
language plpgsql stable as $$
begin
    return query
    select u.* from sync_heads h, sync_usage_of(h.log_id) u
    where only_user is null or h.user_key = sync_user_key(only_user);
end
$$;

revoke execute on function sync_history_days(int), sync_erase(text) from public;
do $$
begin
    execute format('alter function sync_history_days(int) set search_path = %I, pg_temp', current_schema());
    execute format('alter function sync_forget_deleted() set search_path = %I, pg_temp', current_schema());
    execute format('alter function sync_erase(text) set search_path = %I, pg_temp', current_schema());
end
$$;
