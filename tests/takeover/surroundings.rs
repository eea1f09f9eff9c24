//! Other objects and defaults in the database do not stop a takeover: names, publications, limits.

use super::old::{Form, database};
use super::support::create_database;
use super::{migrated, script, value};

#[tokio::test]
async fn names_that_are_alike_at_their_beginning_stay_apart() {
    let url = database(Form::Older, 100, 3).await;
    let long = "idx_sync_changes_of_one_user_in_one_app_by_the_time_of_";
    let make = format!(
        "create index {long}storing on sync_changes (user_id); create index {long}stores on sync_changes (app_id);
         alter table sync_changes add constraint {long}storage check (user_id <> ''), add constraint {long}stock check (app_id <> '')"
    );
    script(&url, make).await;
    assert!(migrated(&url, &[]).await.contains("100 rows were taken over"));
    let indexes = "select count(*) from pg_index where indrelid = 'sync_changes_before'::regclass";
    assert_eq!(value::<i64>(&url, indexes).await, 6);
}

#[tokio::test]
async fn tables_that_are_all_published_are_taken_over() {
    let url = database(Form::Older, 100, 3).await;
    script(&url, "create publication everything for all tables").await;
    assert!(migrated(&url, &[]).await.contains("100 rows were taken over"));
}

/// Sets default time limits for sessions of the database, and records the limits under which tables and indexes are
/// created or altered.
const LIMITED: &str = "
    create table noted (command text, limits text);
    create function note() returns event_trigger language plpgsql as $$
    begin
        insert into public.noted select current_query(), string_agg(setting, ' ' order by name) from pg_settings
        where name in ('idle_in_transaction_session_timeout', 'idle_session_timeout', 'statement_timeout');
    end $$;
    create event trigger note on ddl_command_end when tag in ('CREATE TABLE', 'CREATE INDEX', 'ALTER TABLE') execute function note();
    do $$
    begin
        execute format('alter database %I set statement_timeout = ''10min''', current_database());
        execute format('alter database %I set idle_session_timeout = ''10min''', current_database());
        execute format('alter database %I set idle_in_transaction_session_timeout = ''10min''', current_database());
    end $$";

#[tokio::test]
async fn no_limit_that_a_database_sets_ends_a_migration_or_a_takeover() {
    for url in [create_database().await, database(Form::Newest, 100, 3).await] {
        script(&url, LIMITED).await;
        migrated(&url, &[]).await;
        assert_eq!(value::<String>(&url, "select string_agg(distinct limits, ', ') from noted").await, "0 0 0");
    }
}

/// Building the primary key locks the table, which takes longer than any usual limit if the table is large.
#[tokio::test]
async fn indexes_that_are_built_wait_for_each_other_however_long_that_takes() {
    let url = database(Form::Older, 100, 3).await;
    let note = "
        create table noted (command text, lock_timeout text);
        create function note() returns event_trigger language plpgsql as $$
        begin insert into public.noted values (current_query(), current_setting('lock_timeout')); end $$;
        create event trigger note on ddl_command_end when tag in ('CREATE INDEX', 'ALTER TABLE') execute function note()";
    script(&url, note).await;
    migrated(&url, &[]).await;
    let built = "select count(*) || ' at ' || string_agg(distinct lock_timeout, ', ') from noted
                 where command ~* '^(create (unique )?index .* on |alter table sync_changes_incoming add )'";
    assert_eq!(value::<String>(&url, built).await, "5 at 0");
}

#[tokio::test]
async fn a_schema_whose_name_needs_quotes_is_like_any_other() {
    let url = database(Form::Older, 100, 3).await;
    let elsewhere = "
        create schema \"mana-sync\";
        alter table sync_changes set schema \"mana-sync\";
        do $$ begin execute format('alter database %I set search_path = \"mana-sync\", public', current_database()); end $$";
    script(&url, elsewhere).await;
    assert!(migrated(&url, &[]).await.contains("100 rows were taken over"));
    assert!(migrated(&url, &[]).await.contains("nothing to do"));
    let there = "select count(*) from sync_changes where log_id = sync_log_id(user_id, app_id)";
    assert_eq!(value::<i64>(&url, there).await, 100);
    assert!(migrated(&url, &["--drop-old"]).await.contains("has been dropped"));
}
