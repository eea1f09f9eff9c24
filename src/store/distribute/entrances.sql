-- The schema that holds a user's logs: see layout.rs.
create or replace function sync_bucket_of(user_id text) returns text
language plpgsql stable strict as $$
declare
    layout sync_layout := (select l from sync_layout l);
begin
    if layout.is_moving then
        raise exception using errcode = 'object_not_in_prerequisite_state',
            message = 'the logs are being distributed over buckets: try again when that is over';
    end if;
    return 'sync_b' || lpad(
        ((('x' || left(sync_user_key(user_id)::text, 8))::bit(32)::bigint % layout.buckets))::text, 2, '0');
end
$$;

create or replace function sync_push(user_id text, app_id text, client_id text, changes jsonb) returns text
language plpgsql security definer as $$
declare
    answer text;
begin
    perform sync_check_name('user_id', sync_push.user_id, 255);
    execute format('select %I.sync_push($1, $2, $3, $4)', sync_bucket_of(sync_push.user_id))
        using sync_push.user_id, sync_push.app_id, sync_push.client_id, sync_push.changes into answer;
    return answer;
end
$$;

create or replace function sync_erase(user_id text) returns bigint
language plpgsql security definer as $$
declare
    erased bigint;
    changes bigint;
    trimmed bigint;
    headless uuid[];
begin
    perform sync_check_name('user_id', sync_erase.user_id, 255);
    execute format('select %I.sync_erase($1)', sync_bucket_of(sync_erase.user_id)) using sync_erase.user_id into erased;
    -- Left behind by the distribution: rows of logs without heads. The trigger would look for the previous tables.
    perform set_config('mana_sync.trimming', 'on', true);
    with gone as (
        delete from sync_changes_undistributed c where c.user_id = sync_erase.user_id returning c.log_id
    )
    select count(*), array_agg(distinct g.log_id) into changes, headless from gone g;
    delete from sync_history_undistributed t where t.log_id = any(headless);
    get diagnostics trimmed = row_count;
    perform from sync_changes_undistributed c where c.user_id = sync_erase.user_id limit 1;
    if found then
        perform sync_refuse_kept('sync_changes_undistributed');
    end if;
    perform from sync_history_undistributed t where t.log_id = any(headless) limit 1;
    if found then
        perform sync_refuse_kept('sync_history_undistributed');
    end if;
    perform set_config('mana_sync.trimming', '', true);
    return erased + changes + trimmed + sync_erase_before(sync_erase.user_id);
end
$$;

-- Rows from programs, which do not specify their position in the log.
create or replace function sync_insert_in_bucket() returns trigger
language plpgsql security definer as $$
begin
    perform sync_check_name('user_id', new.user_id, 255);
    execute format(
        'insert into %I.sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, field_meta,
                                      client_id, schema_version, actor, origin, space_id)
         values (coalesce($1.id, gen_random_uuid()), $1.app_id, $1.table_name, $1.record_id, $1.user_id, $1.op, $1.data,
                 coalesce($1.field_timestamps, ''{}''), $1.field_meta, $1.client_id, $1.schema_version, $1.actor,
                 $1.origin, $1.space_id)
         returning id, log_id, created_at, op, data, field_timestamps, client_id, size, extra',
        sync_bucket_of(new.user_id))
    using new into new.id, new.log_id, new.created_at, new.op, new.data, new.field_timestamps, new.client_id, new.size, new.extra;
    if new.id is null then
        -- It was stored and trimmed away before.
        return null;
    end if;
    -- Folded into field_timestamps and extra.
    new.field_meta := null;
    new.schema_version := null;
    new.actor := null;
    new.origin := null;
    new.space_id := null;
    return new;
end
$$;

create or replace function sync_delete_in_bucket() returns trigger
language plpgsql security definer as $$
declare
    deleted bigint;
begin
    execute format('delete from %I.sync_changes where id = $1', sync_bucket_of(old.user_id)) using old.id;
    get diagnostics deleted = row_count;
    if deleted = 0 then
        -- A trigger keeps it, and the program is not told that it was deleted.
        return null;
    end if;
    return old;
end
$$;

-- The tables themselves stay empty.
create or replace function sync_refuse_undistributed() returns trigger
language plpgsql as $$
begin
    raise exception using errcode = 'object_not_in_prerequisite_state',
        message = 'the logs are distributed over buckets, and are being migrated: try again when that is over';
end
$$;

create or replace trigger sync_changes_insert instead of insert on sync_changes
for each row execute function sync_insert_in_bucket();
create or replace trigger sync_changes_delete instead of delete on sync_changes
for each row execute function sync_delete_in_bucket();
create or replace trigger sync_undistributed before insert on sync_changes_undistributed
for each statement execute function sync_refuse_undistributed();
create or replace trigger sync_undistributed before insert on sync_heads_undistributed
for each statement execute function sync_refuse_undistributed();

revoke execute on function sync_push(text, text, text, jsonb), sync_erase(text) from public;
do $$
begin
    execute format('alter function sync_push(text, text, text, jsonb) set search_path = %I, pg_temp', current_schema());
    execute format('alter function sync_erase(text) set search_path = %I, pg_temp', current_schema());
    -- What row-level security hides from the owner (force row level security) is refused, not left there.
    alter function sync_erase(text) set row_security = off;
    execute format('alter function sync_insert_in_bucket() set search_path = %I, pg_temp', current_schema());
    execute format('alter function sync_delete_in_bucket() set search_path = %I, pg_temp', current_schema());
end
$$;

-- Older replicas would look for logs where they no longer are. A requirement that a migration set on the table still
-- applies.
do $$
begin
    execute format('comment on view sync_heads is %L', 'replicas must know migration ' || greatest(11,
        substring(obj_description('sync_heads_undistributed'::regclass, 'pg_class') from 'replicas must know migration (\d+)')::int));
end
$$;
