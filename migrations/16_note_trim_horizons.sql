-- How young the rows are that trimming may have touched, and what erasing leaves where the clock or a head is not what it was.

alter table sync_heads
    -- Rows up to this position may have been trimmed: the latest horizon of all trimmings. One piece of a trimming takes from its
    -- records all that is old enough, also where that stands after trimmed_to, which only says how far the pieces have come.
    add column trim_horizon timestamptz not null default 'epoch';

-- As before; also what is left of a person in logs whose heads are gone. And where positions were given out ahead of the clock,
-- the head stays, alone: a log that is made anew begins at the clock, and whoever comes back with an old cursor would miss
-- what is stored until the clock has passed it.
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
    perform set_config('mana_sync.trimming', '', true);
    if ahead > interval '0' then
        perform pg_sleep(least(extract(epoch from ahead), 1));
    end if;
    clock := clock_timestamp();
    delete from sync_heads h where h.log_id = any(logs) and h.head < clock;
    update sync_heads h
    set head = e.head, previous = e.head, stored_changes = 0, stored_bytes = 0, untrimmed_since = null, deleted_since = null
    from sync_erased e where e.log_id = h.log_id and h.log_id = any(logs);
    delete from sync_erased e where e.erased_at < now() - interval '1 hour';
    return erased + sync_erase_before(sync_erase.user_id);
end
$$;

-- Replacing a function takes its settings away.
do $$
begin
    execute format('alter function sync_erase(text) set search_path = %I, pg_temp', current_schema());
end
$$;
