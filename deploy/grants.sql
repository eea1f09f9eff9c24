-- The rights of a replica, and no others. Run it as the owner of the tables, after each `mana-sync migrate`, which goes on
-- as the owner:
--
--   psql postgres://owner@db.example.com/mana_sync -f grants.sql
--   alter role mana_sync_replica password '…';
--
-- Then DATABASE_URL and DATABASE_LISTEN_URL of replicas name the role mana_sync_replica. MIGRATE_ON_START stays off,
-- and COMPACT_AFTER_MS is 0: trimming takes rows away, so the owner does it, by `mana-sync compact` now and then.

do $$
begin
    if not exists (select from pg_roles where rolname = 'mana_sync_replica') then
        create role mana_sync_replica login;
    end if;
    -- Whoever may connect may also listen to the replicas' notifications, and send some.
    execute format('revoke connect, temporary on database %I from public', current_database());
    execute format('grant connect on database %I to mana_sync_replica', current_database());
    execute format('grant usage on schema %I to mana_sync_replica', current_schema());
end
$$;

-- A log's head is taken, and moves on.
grant select, insert, update on sync_heads to mana_sync_replica;
-- Changes are added and read. Nothing that is stored is changed or taken away.
grant select, insert on sync_changes to mana_sync_replica;
-- A change that is sent again is found among those that were trimmed.
grant select on sync_history to mana_sync_replica;
-- Devices are told that what they had was erased.
grant select on sync_erased to mana_sync_replica;
-- Is the schema the right one?
grant select on _sqlx_migrations to mana_sync_replica;

-- The same in each bucket, where `mana-sync distribute` has made some.
do $$
declare
    bucket text;
begin
    for bucket in select nspname from pg_namespace where nspname ~ '^sync_b[0-9]{2}$' loop
        execute format('grant usage on schema %I to mana_sync_replica', bucket);
        execute format('grant select, insert, update on %I.sync_heads to mana_sync_replica', bucket);
        execute format('grant select, insert on %I.sync_changes to mana_sync_replica', bucket);
        execute format('grant select on %1$I.sync_history, %1$I.sync_erased, %1$I._sqlx_migrations to mana_sync_replica', bucket);
    end loop;
end
$$;
