-- Days of the history are published like other tables, and functions that read find their tables from everywhere.

-- As before; and a row of a day is named by all of it. The days have no key, and of published tables, of which there may be a
-- publication of all, PostgreSQL deletes only rows that can be named: nobody could be erased. Days that are there already are seen to
-- when a replica asks for them the next time.
create or replace function sync_history_days(keep int) returns void
language plpgsql security definer as $$
declare
    one_at_a_time int8 := hashtextextended('sync_history_days', 7472696);
    today date := (clock_timestamp() at time zone 'UTC')::date;
    one date;
    part record;
    name text;
    is_over boolean;
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
                execute format('alter table %I replica identity full', name);
                execute format('alter table sync_history attach partition %I for values from (%L) to (%L)', name,
                               one::timestamp at time zone 'UTC', (one + 1)::timestamp at time zone 'UTC');
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

do $$
begin
    execute format('alter function sync_history_days(int) set search_path = %I, pg_temp', current_schema());
    execute format('alter function sync_records(text, text, text) set search_path = %I, pg_temp', current_schema());
    execute format('alter function sync_usage(text) set search_path = %I, pg_temp', current_schema());
end
$$;
