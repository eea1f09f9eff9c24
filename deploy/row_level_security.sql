-- Row-level security for programs that use SQL (docs/sql.md): a second barrier between users, if a program forgets a WHERE.
-- Optional. Run it as the owner of the tables, after grants.sql, and again after each `mana-sync migrate`:
--
--   psql postgres://owner@db.example.com/mana_sync -f grants.sql -f row_level_security.sql
--   grant mana_sync_program to mail_importer;
--
-- A program names the user it works for, for a transaction or a session, and then sees and writes only that user's rows.
-- Without a user it sees no rows and cannot write any:
--
--   begin;
--   set local mana_sync.user_id = 'user-1';
--   select * from sync_records('user-1', 'todo');
--   select sync_push_own('todo', 'mail-importer', '[…]');
--   commit;
--
-- This keeps mistakes from becoming leaks. It does not stop a malicious program, which can set mana_sync.user_id to any user.
-- From now on, all other roles except the owner and mana_sync_replica see no rows. A role that has to see all of them needs
-- its own policy:
--
--   create policy sync_reports on sync_changes for select to reports using (true);
--
-- Replicas work for many users in one statement, so they see everything: docs/adr/0033-row-level-security-for-programs.md.
-- To turn it off: alter table … disable row level security, on each of the tables below.
--
-- If `mana-sync distribute` has created buckets, the tables and policies are in them; the views of the same names in the main
-- schema use the privileges of the querying role, which takes PostgreSQL 15. Other roles need privileges and a policy in each
-- bucket (docs/buckets.md). Row-level security stays on when the logs are distributed or migrated. It does not work on Citus:
-- what a session sets does not reach the servers that have the rows.

do $$
begin
    if (select l.on_citus from sync_layout l) then
        raise exception using errcode = 'feature_not_supported',
            message = 'row-level security for programs does not work on Citus: mana_sync.user_id does not reach the servers that have the rows';
    end if;
    if exists (select from sync_layout) and current_setting('server_version_num')::int < 150000 then
        raise exception using errcode = 'feature_not_supported',
            message = 'row-level security for programs takes PostgreSQL 15 where the logs are distributed over buckets';
    end if;
    if not exists (select from pg_roles where rolname = 'mana_sync_program') then
        create role mana_sync_program nologin;
    end if;
    execute format('grant connect on database %I to mana_sync_program', current_database());
    execute format('grant usage on schema %I to mana_sync_program', current_schema());
end
$$;

-- Stores a push for the user in mana_sync.user_id. These programs may not call sync_push, which takes any user and runs as the
-- owner, past every policy.
create or replace function sync_push_own(app_id text, client_id text, changes jsonb) returns text
language plpgsql security definer as $$
begin
    if coalesce(current_setting('mana_sync.user_id', true), '') = '' then
        raise exception using errcode = 'insufficient_privilege', message = 'mana_sync.user_id is not set: say for whom to push';
    end if;
    return sync_push(current_setting('mana_sync.user_id'), sync_push_own.app_id, sync_push_own.client_id, sync_push_own.changes);
end
$$;
do $$
begin
    execute format('alter function sync_push_own(text, text, jsonb) set search_path = %I, pg_temp', current_schema());
end
$$;
revoke execute on function sync_push_own(text, text, jsonb) from public;
grant execute on function sync_push_own(text, text, jsonb) to mana_sync_program;
revoke execute on function sync_push(text, text, text, jsonb) from mana_sync_program;

set client_min_messages = warning;

-- The tables themselves: in this schema, or in the buckets.
do $$
declare
    main text := current_schema();
    is_distributed bool := (select c.relkind = 'v' from pg_class c where c.oid = to_regclass('sync_changes'));
    -- `(select …)` is evaluated once per statement, not for each row.
    own text := 'user_id = (select current_setting(''mana_sync.user_id'', true))';
    names text[] := array['sync_changes', 'sync_heads', 'sync_history', 'sync_erased'];
    locks text;
    timeout_before text := current_setting('lock_timeout');
    place record;
    named text;
    walled text;
begin
    -- psql continues after the error above.
    if is_distributed and (current_setting('server_version_num')::int < 150000 or (select l.on_citus from sync_layout l)) then
        raise exception using errcode = 'feature_not_supported', message = 'row-level security for programs was refused: nothing is put up';
    end if;
    -- Take all locks first. Replicas lock in other orders, so release these after a short wait and try again, before PostgreSQL
    -- finds a deadlock (deadlock_timeout, 1 s by default) and cancels a replica's statement.
    select string_agg(format('%I.%I', n.nspname, c.relname), ', ' order by n.nspname <> main, c.relname) into locks
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relname = any (names || array(select name || '_undistributed' from unnest(names) name)) and c.relkind in ('r', 'p', 'v')
      and (n.nspname = main or is_distributed and n.nspname ~ '^sync_b[0-9]{2}$'
           and obj_description(n.oid, 'pg_namespace') = 'A bucket of mana-sync');
    for attempt in 1 .. 100 loop
        begin
            perform set_config('lock_timeout', '200ms', true);
            execute format('lock table %s in access exclusive mode', locks);
            exit;
        exception when lock_not_available or deadlock_detected then
            if attempt = 100 then raise; end if;
            perform pg_sleep(0.1);
        end;
    end loop;
    perform set_config('lock_timeout', timeout_before, true);

    for place in
        select main as schema, case when is_distributed then '_undistributed' else '' end as suffix
        union all
        select n.nspname, '' from pg_namespace n
        where is_distributed and n.nspname ~ '^sync_b[0-9]{2}$'
          and obj_description(n.oid, 'pg_namespace') = 'A bucket of mana-sync'
    loop
        foreach named in array names loop
            walled := format('%I.%I', place.schema, named || place.suffix);
            execute format('alter table %s enable row level security', walled);
            execute format('drop policy if exists sync_replica on %s', walled);
            execute format('create policy sync_replica on %s to mana_sync_replica using (true)', walled);
            execute format('drop policy if exists sync_own on %s', walled);
            if named in ('sync_changes', 'sync_heads') then
                execute format('create policy sync_own on %s to mana_sync_program using (%s)', walled, own);
            elsif named = 'sync_history' then
                -- The history has log ids but no user ids; sync_heads says which logs are the user's.
                execute format('create policy sync_own on %s for select to mana_sync_program
                    using (log_id in (select h.log_id from %I.%I h where h.%s))',
                    walled, place.schema, 'sync_heads' || place.suffix, own);
            end if;
        end loop;
        -- Last, because the tables are locked by now. A grant would fail on a table that a replica is changing, such as for a new
        -- day of the history.
        execute format('grant usage on schema %I to mana_sync_program', place.schema);
        execute format('grant select, delete, insert (id, app_id, table_name, record_id, user_id, op, data, field_timestamps,
            field_meta, client_id, schema_version, actor, origin, space_id) on %I.%I to mana_sync_program',
            place.schema, 'sync_changes' || place.suffix);
        execute format('grant select on %1$I.%2$I, %1$I.%3$I to mana_sync_program',
            place.schema, 'sync_heads' || place.suffix, 'sync_history' || place.suffix);
    end loop;
    if is_distributed then
        grant select, delete, insert (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, field_meta,
            client_id, schema_version, actor, origin, space_id) on sync_changes to mana_sync_program;
        grant select on sync_heads, sync_history to mana_sync_program;
        foreach named in array names loop
            execute format('alter view %I set (security_invoker = true)', named);
        end loop;
        -- The triggers for inserts into and deletes from the view.
        alter function sync_insert_in_bucket() security invoker;
        alter function sync_delete_in_bucket() security invoker;
    end if;
end
$$;
