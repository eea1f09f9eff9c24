-- Long values of a change are unpacked once for each change that is read, and not once for each of its fields: whoever asked
-- for the records of a user, or for what they take, waited for minutes where the user had written a record with thousands of
-- fields. What has been put together in a query (`|| '{}'`) is not packed.

-- As before, but for that.
create or replace function sync_records(user_id text, app_id text, only_table text default null)
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
        select c.table_name, c.record_id, c.created_at, c.op, c.field_timestamps || '{}' as field_timestamps,
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

-- As before, but for that.
create or replace function sync_garbage_of(log uuid) returns bigint
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
            select c.table_name, c.record_id, c.created_at, c.op, c.field_timestamps || '{}' as field_timestamps,
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
