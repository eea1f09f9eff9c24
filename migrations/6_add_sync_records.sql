-- sync_records: the records of a user in an app as they stand, by the rules by which devices merge: of each field the
-- write with the latest stamp, of equal stamps the one stored last. A deleted record is one whose deletedAt is not null.
-- `data` has deletedAt like any other field. Of all tables, if none is named.
--
-- It runs with the rights of its caller, who needs SELECT on sync_changes.
create function sync_records(user_id text, app_id text, only_table text default null)
returns table (table_name text, record_id text, data jsonb, field_timestamps jsonb, deleted boolean, updated_at timestamptz)
language plpgsql stable
-- So that it is known whether a table is named, and its index used.
set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
declare
    log uuid := sync_log_id(user_id, app_id);
begin
    return query
    with changes as (
        select c.table_name, c.record_id, c.created_at, c.op, c.field_timestamps,
               case c.op when 'delete'
                   then jsonb_build_object('deletedAt', coalesce(c.field_timestamps -> 'deletedAt', to_jsonb(sync_iso(c.created_at))))
                   else c.data
               end as data,
               -- An insert has one stamp for all; without one it is as old as can be.
               case c.op when 'insert' then coalesce(sync_stamp(case jsonb_typeof(c.data -> 'updatedAt') when 'string' then c.data ->> 'updatedAt' end),
                                                     sync_stamp(case jsonb_typeof(c.data -> 'createdAt') when 'string' then c.data ->> 'createdAt' end),
                                                     '1970-01-01T00:00:00.000Z')
               end as stamp
        from sync_changes c
        where c.log_id = log and (only_table is null or c.table_name = only_table)
        offset 0
    ), winners as (
        select distinct on (w.table_name, w.record_id, w.field) w.*
        from (
            select c.table_name, c.record_id, c.created_at, f.key as field, f.value,
                   coalesce(c.stamp, c.field_timestamps ->> f.key, sync_iso(c.created_at)) as stamp
            from changes c left join lateral jsonb_each(c.data) as f on true
        ) as w
        order by w.table_name, w.record_id, w.field, w.stamp collate "C" desc, w.created_at desc
    )
    select w.table_name, w.record_id,
           coalesce(jsonb_object_agg(w.field, w.value) filter (where w.field is not null), '{}'),
           coalesce(jsonb_object_agg(w.field, w.stamp) filter (where w.field is not null), '{}'),
           coalesce(bool_or(w.value <> 'null') filter (where w.field = 'deletedAt'), false),
           -- PostgreSQL has no year 0.
           case when count(w.field) > 0 then greatest(max(w.stamp collate "C"), '0001-01-01T00:00:00.000Z')::timestamptz end
    from winners w
    group by w.table_name, w.record_id;
end
$$;
