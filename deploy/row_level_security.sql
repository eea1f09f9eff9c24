-- A second wall between users, for programs that use SQL (docs/sql.md): what they forget to write in a WHERE, PostgreSQL adds.
-- Optional. Run it as the owner of the tables, after grants.sql, and again after each `mana-sync migrate`:
--
--   psql postgres://owner@db.example.com/mana_sync -f grants.sql -f row_level_security.sql
--   grant mana_sync_program to mail_importer;
--
-- A program says for whom it works, for a transaction or for a session, and sees and writes that user's rows alone. Until it
-- has, there are none, and none can be written:
--
--   begin;
--   set local mana_sync.user_id = 'user-1';
--   select * from sync_records('user-1', 'todo');
--   select sync_push_own('todo', 'mail-importer', '[…]');
--   commit;
--
-- It keeps mistakes from becoming leaks. It does not hold a program that means harm: whoever may set mana_sync.user_id may set it
-- to anybody. Every other role but the owner and mana_sync_replica sees no rows from now on; one that has to see all of them
-- gets a policy of its own:
--
--   create policy sync_reports on sync_changes for select to reports using (true);
--
-- Replicas work for many users in one statement, so they pass: docs/adr/0033-row-level-security-for-programs.md.
-- To take the wall down: alter table … disable row level security, on each of the tables below.
--
-- Where `mana-sync distribute` has made buckets, the tables are there, and so are the policies; the views that have their names
-- in the main schema ask with the rights of whoever asks, which takes PostgreSQL 15. Other roles need rights and a policy in each
-- bucket (docs/buckets.md). A wall that stands when the logs are distributed, or migrated, stands afterwards. Not on Citus: what a
-- session sets does not reach the servers that have the rows.

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

-- What a push of the user in mana_sync.user_id would store. sync_push names its user itself and runs as the owner, past every
-- policy: it is not for these programs.
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
    -- `(select …)`: asked once for a statement, not for each row.
    own text := 'user_id = (select current_setting(''mana_sync.user_id'', true))';
    names text[] := array['sync_changes', 'sync_heads', 'sync_history', 'sync_erased'];
    locks text;
    timeout_before text := current_setting('lock_timeout');
    place record;
    named text;
    walled text;
begin
    -- psql goes on after the refusal above.
    if is_distributed and (current_setting('server_version_num')::int < 150000 or (select l.on_citus from sync_layout l)) then
        raise exception using errcode = 'feature_not_supported', message = 'row-level security for programs was refused: nothing is put up';
    end if;
    -- All locks are taken first. Replicas take theirs in other orders, so after a short wait these are released and tried again,
    -- before PostgreSQL finds a deadlock (deadlock_timeout, 1 s by default) and cancels a replica's statement.
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
                -- The history has no user ids, only logs; which of them are the user's, the heads say.
                execute format('create policy sync_own on %s for select to mana_sync_program
                    using (log_id in (select h.log_id from %I.%I h where h.%s))',
                    walled, place.schema, 'sync_heads' || place.suffix, own);
            end if;
        end loop;
        -- Last: the tables are locked by now. A grant on one that a replica changes at this moment, by a new day of the history,
        -- would fail.
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
        -- What is inserted into and deleted from the view.
        alter function sync_insert_in_bucket() security invoker;
        alter function sync_delete_in_bucket() security invoker;
    end if;
end
$$;
