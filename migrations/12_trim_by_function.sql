-- Trimming by functions with the rights of the tables' owner, so that the role of replicas needs no right to change or take
-- away what is stored (deploy/grants.sql). Replicas of the version before do the same by statements of their own.

-- Takes out of rows what they lose: `lost` are the fields with their stamps, by row, `gone` whether nothing is left of it.
-- What is taken out goes into the history, if it is kept. The caller holds the lock of sync_trim_lock for their log.
create function sync_trim_rows(trimmed uuid[], losing text[], going bool[], keep_history bool)
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

-- Marks the deletes that are left of records of which rows have gone.
create function sync_mark_trimmed(log uuid, tables text[], records text[]) returns void
language plpgsql security definer as $$
begin
    update sync_changes c set rows_trimmed = true
    from unnest(tables, records) as k (table_name, record_id)
    where c.log_id = log and c.table_name = k.table_name and c.record_id = k.record_id
        and c.op = 'delete' and c.rows_trimmed is null;
end
$$;

revoke execute on function sync_trim_rows(uuid[], text[], bool[], bool), sync_mark_trimmed(uuid, text[], text[]) from public;
do $$
begin
    execute format('alter function sync_trim_rows(uuid[], text[], bool[], bool) set search_path = %I, pg_temp', current_schema());
    execute format('alter function sync_mark_trimmed(uuid, text[], text[]) set search_path = %I, pg_temp', current_schema());
end
$$;
