-- The privileges of a replica, and no others. `mana-sync migrate --grant` runs this after the migrations, as the owner of the
-- tables; or run it by hand as the owner, after each `mana-sync migrate`:
--
--   psql postgres://owner@db.example.com/mana_sync -f grants.sql
--   alter role mana_sync_replica password '…';
--
-- Then replicas connect as mana_sync_replica in DATABASE_URL and DATABASE_LISTEN_URL, and MIGRATE_ON_START stays off.

do $$
begin
    if not exists (select from pg_roles where rolname = 'mana_sync_replica') then
        create role mana_sync_replica login;
    end if;
    -- A role that may connect may also listen to the replicas' notifications, and send some.
    execute format('revoke connect, temporary on database %I from public', current_database());
    execute format('grant connect on database %I to mana_sync_replica', current_database());
    execute format('grant usage on schema %I to mana_sync_replica', current_schema());
end
$$;

-- Pushes lock a log's head and advance it.
grant select, insert, update on sync_heads to mana_sync_replica;
-- Changes are inserted and read. Only the functions below change or delete what is stored.
grant select, insert on sync_changes to mana_sync_replica;
-- A retried change may have been trimmed; then it is found here. Replicas add days to this table while they run, and a grant
-- fails on a table that somebody changes at the same moment ("tuple concurrently updated"): the lock waits for them. A view, as
-- this is after `mana-sync distribute`, is not changed.
do $$
begin
    if (select c.relkind = 'p' from pg_class c where c.oid = 'sync_history'::regclass) then
        lock table only sync_history in share update exclusive mode;
    end if;
    grant select on sync_history to mana_sync_replica;
end
$$;
-- Tells devices that their data was erased.
grant select on sync_erased to mana_sync_replica;
-- Tokens that operators refused are kept until they expire.
grant select, insert, update, delete on sync_refused_tokens to mana_sync_replica;
-- To check the schema's version.
grant select on _sqlx_migrations to mana_sync_replica;

-- Trimming (COMPACT_AFTER_MS) moves superseded changes into the history, and creates and drops the history's days.
grant execute on function sync_history_days(int), sync_trim_rows(uuid[], text[], bool[], bool),
    sync_mark_trimmed(uuid, text[], text[]) to mana_sync_replica;

-- The same in each bucket, if `mana-sync distribute` has created some.
do $$
declare
    bucket text;
begin
    for bucket in select nspname from pg_namespace where nspname ~ '^sync_b[0-9]{2}$' loop
        execute format('grant usage on schema %I to mana_sync_replica', bucket);
        execute format('grant select, insert, update on %I.sync_heads to mana_sync_replica', bucket);
        execute format('grant select, insert on %I.sync_changes to mana_sync_replica', bucket);
        execute format('lock table only %I.sync_history in share update exclusive mode', bucket);
        execute format('grant select on %1$I.sync_history, %1$I.sync_erased, %1$I._sqlx_migrations to mana_sync_replica', bucket);
        execute format('grant execute on function %1$I.sync_history_days(int), %1$I.sync_trim_rows(uuid[], text[], bool[], bool),
                            %1$I.sync_mark_trimmed(uuid, text[], text[]) to mana_sync_replica', bucket);
        -- On Citus, pushes need this table.
        if to_regclass(format('%I.sync_anchor', bucket)) is not null then
            execute format('grant select on %I.sync_anchor to mana_sync_replica', bucket);
        end if;
    end loop;
end
$$;
