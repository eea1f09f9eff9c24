-- What a trigger undoes, which returns `old` before an update, is not taken for trimmed either: it would be kept in the history
-- once more with each trimming.
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
        returning k.size - c.size as bytes,
                  coalesce(c.data ?| k.fields, false) or c.field_timestamps ?| k.fields as is_kept
    ), removed as (
        delete from sync_changes c using cut k where c.id = k.id and k.gone
        returning k.size as bytes
    )
    select (select count(*) from cut), (select count(*) from shrunk s where not s.is_kept) + (select count(*) from removed),
           (select count(*) from removed),
           coalesce((select sum(s.bytes) from shrunk s), 0)::int8 + coalesce((select sum(r.bytes) from removed r), 0)::int8
    into asked, rows, gone, bytes;
    if rows < asked then
        perform sync_refuse_kept('sync_changes');
    end if;
    return next;
end
$$;

-- Replacing a function takes its settings away.
do $$
begin
    execute format('alter function sync_trim_rows(uuid[], text[], bool[], bool) set search_path = %I, pg_temp', current_schema());
end
$$;
