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

do $$
begin
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

grant select, delete, insert (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, field_meta, client_id,
    schema_version, actor, origin, space_id) on sync_changes to mana_sync_program;
grant select on sync_heads, sync_history to mana_sync_program;

alter table sync_changes enable row level security;
alter table sync_heads enable row level security;
alter table sync_history enable row level security;
alter table sync_erased enable row level security;

set client_min_messages = warning;
drop policy if exists sync_replica on sync_changes;
drop policy if exists sync_replica on sync_heads;
drop policy if exists sync_replica on sync_history;
drop policy if exists sync_replica on sync_erased;
create policy sync_replica on sync_changes to mana_sync_replica using (true);
create policy sync_replica on sync_heads to mana_sync_replica using (true);
create policy sync_replica on sync_history to mana_sync_replica using (true);
create policy sync_replica on sync_erased to mana_sync_replica using (true);

-- `(select …)`: asked once for a statement, not for each row.
drop policy if exists sync_own on sync_changes;
drop policy if exists sync_own on sync_heads;
drop policy if exists sync_own on sync_history;
create policy sync_own on sync_changes to mana_sync_program
    using (user_id = (select current_setting('mana_sync.user_id', true)));
create policy sync_own on sync_heads to mana_sync_program
    using (user_id = (select current_setting('mana_sync.user_id', true)));
-- The history has no user ids, only logs; which of them are the user's, the heads say.
create policy sync_own on sync_history for select to mana_sync_program
    using (log_id in (select h.log_id from sync_heads h
                      where h.user_id = (select current_setting('mana_sync.user_id', true))));
