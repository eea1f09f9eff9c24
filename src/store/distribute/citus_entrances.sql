-- Replacements on Citus for what entrances.sql creates in the main schema, or for what would read all buckets there.

create or replace function sync_insert_in_bucket() returns trigger
language plpgsql security definer as $$
declare
    stored jsonb;
begin
    perform sync_check_name('user_id', new.user_id, 255);
    execute format('select %I.sync_store_program_row($1)', sync_bucket_of(new.user_id)) using to_jsonb(new) into stored;
    if stored is null then
        -- It was stored and trimmed away before.
        return null;
    end if;
    new := jsonb_populate_record(new, stored);
    -- Folded into field_timestamps and extra.
    new.field_meta := null;
    new.schema_version := null;
    new.actor := null;
    new.origin := null;
    new.space_id := null;
    return new;
end
$$;

-- To find the rows, Citus would fetch those of all users from all servers. Without the trigger, PostgreSQL refuses
-- deletes.
drop trigger if exists sync_changes_delete on sync_changes;

create or replace function sync_records(user_id text, app_id text, only_table text default null)
returns table (table_name text, record_id text, data jsonb, field_timestamps jsonb, deleted boolean, updated_at timestamptz)
language plpgsql stable as $$
begin
    return query execute format('select * from %I.sync_records($1, $2, $3)', sync_bucket_of(sync_records.user_id))
        using sync_records.user_id, sync_records.app_id, sync_records.only_table;
end
$$;

create or replace function sync_usage(only_user text default null)
returns table (user_id text, app_id text, changes bigint, bytes bigint, records bigint, garbage bigint,
               history_changes bigint, history_bytes bigint)
language plpgsql stable as $$
declare
    bucket int;
begin
    if only_user is not null then
        return query execute format('select * from %I.sync_usage($1)', sync_bucket_of(only_user)) using only_user;
        return;
    end if;
    for bucket in select generate_series(0, l.buckets - 1) from sync_layout l loop
        return query execute format('select * from %I.sync_usage()', 'sync_b' || lpad(bucket::text, 2, '0'));
    end loop;
end
$$;

do $$
begin
    execute format('alter function sync_insert_in_bucket() set search_path = %I, pg_temp', current_schema());
    -- Earlier replicas store pushes with a statement that does not run here.
    execute format('comment on view sync_heads is %L', 'replicas must know migration ' || greatest(13,
        substring(obj_description('sync_heads_undistributed'::regclass, 'pg_class') from 'replicas must know migration (\d+)')::int));
end
$$;
