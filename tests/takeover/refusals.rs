//! Refusals, and how a replica handles an incomplete takeover.

use super::old::{Form, database};
use super::support::*;
use super::{connect, exe, migrate, migrated, refused, script, value};
use mana_dev::{Replica, ReplicaOptions, free_port};
use sqlx::Connection;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn while_others_are_connected_it_refuses_and_names_them_unless_told() {
    let url = database(Form::Older, 100, 3).await;
    let mut other = connect(&url).await;
    sqlx::raw_sql("set application_name = 'mana-sync-go'").execute(&mut other).await.unwrap();
    let said = refused(&url, &[]).await;
    assert!(said.contains("other clients are connected") && said.contains("mana-sync-go"), "{said}");
    assert!(said.contains("--while-connected") && said.contains("will be taken over"), "{said}");
    assert_eq!(value::<i64>(&url, "select count(*) from sync_changes where field_timestamps is not null").await, 100);
    assert!(migrated(&url, &["--while-connected"]).await.contains("100 rows were taken over"));
    other.close().await.unwrap();
}

#[tokio::test]
async fn unknown_forms_are_left_as_they_are() {
    for (change, because) in [
        ("alter table sync_changes add column version int", "unknown column version"),
        ("alter table sync_changes drop column client_id", "lacks the column client_id"),
        ("alter table sync_changes drop column field_timestamps", "neither field_timestamps nor field_meta"),
        ("alter table sync_changes alter column data type text", "data is of type text"),
        ("alter table sync_changes rename to c; create view sync_changes as select * from c", "not an ordinary table"),
    ] {
        let url = database(Form::Older, 10, 3).await;
        script(&url, change).await;
        let said = refused(&url, &[]).await;
        assert!(said.contains("has an unknown form") && said.contains(because), "{said}");
        assert_eq!(value::<i64>(&url, "select count(*) from sync_changes").await, 10);
        assert!(!value::<bool>(&url, "select to_regclass('sync_heads') is not null").await);
    }
}

#[tokio::test]
async fn what_is_there_of_an_earlier_takeover_is_not_overwritten() {
    let url = database(Form::Older, 10, 3).await;
    script(&url, "create table sync_changes_before as select 1 as mine").await;
    let said = refused(&url, &[]).await;
    assert!(said.contains("sync_changes_before already exists"), "{said}");
    assert_eq!(value::<i32>(&url, "select mine from sync_changes_before").await, 1);
}

#[tokio::test]
async fn who_went_back_but_not_all_the_way_keeps_the_table_and_is_told() {
    let url = database(Form::Older, 10, 3).await;
    migrated(&url, &[]).await;
    let back = "alter table sync_changes rename to mine; alter table sync_changes_before rename to sync_changes";
    script(&url, back).await;
    let said = refused(&url, &[]).await;
    assert!(said.contains("an earlier takeover") && said.contains("coming-from-the-go-server.md"), "{said}");
    assert_eq!(value::<i64>(&url, "select count(*) from sync_changes where field_timestamps is not null").await, 10);
}

#[tokio::test]
async fn run_again_after_a_kill_it_refuses_others_again() {
    let url = database(Form::Older, 20_000, 5).await;
    assert!(super::whole::killed_when(&url, |line| line.contains("rows copied")).await);
    let mut other = connect(&url).await;
    sqlx::raw_sql("set application_name = 'mana-sync-go'").execute(&mut other).await.unwrap();
    let said = refused(&url, &[]).await;
    assert!(said.contains("other clients are connected") && said.contains("mana-sync-go"), "{said}");
    let reads = sqlx::query("select count(*) from sync_changes").execute(&mut other).await.unwrap_err();
    assert_eq!(reads.as_database_error().unwrap().code().as_deref(), Some("42P01"));
    assert!(migrated(&url, &["--while-connected"]).await.contains("20000 rows were taken over"));
    other.close().await.unwrap();
}

#[tokio::test]
async fn until_it_is_over_no_replica_starts_and_nothing_is_dropped() {
    let url = database(Form::Older, 20_000, 5).await;
    let said = refused(&url, &["--drop-old"]).await;
    assert!(said.contains("the takeover is not finished"), "{said}");
    let mut process = migrate(&url, &[]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().expect("it must begin to copy").contains("Exactly 20000 rows") {}
    process.kill().await.unwrap();
    for on_start in ["false", "true"] {
        let serve = tokio::process::Command::new(super::exe())
            .args(["serve", "--port", "0"])
            .env("DATABASE_URL", &url)
            .env("MIGRATE_ON_START", on_start)
            .output();
        let served = tokio::time::timeout(TIMEOUT, serve).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&[served.stdout, served.stderr].concat()).into_owned();
        assert!(!served.status.success() && said.contains("mana-sync migrate"), "{said}");
    }
    assert!(refused(&url, &["--drop-old"]).await.contains("the takeover is not finished"));
    migrated(&url, &[]).await;
    assert_eq!(value::<i64>(&url, "select count(*) from sync_changes").await, 20_000);
}

#[tokio::test]
async fn rows_that_no_device_could_read_are_counted_and_stay_behind() {
    let url = database(Form::Older, 1_000, 3).await;
    let odd = "
        alter table sync_changes alter column user_id drop not null, alter column app_id drop not null;
        update sync_changes set data = '[1]' where ctid = (select min(ctid) from sync_changes where op = 'update');
        insert into sync_changes (app_id, table_name, record_id, user_id, op, data, client_id, created_at) values
            ('todo', 'tasks', 'a', '', 'insert', '{}', 'c', now()), (null, 'tasks', 'a', 'u', 'insert', '{}', 'c', now()),
            ('todo', '', 'a', 'u', 'insert', '{}', 'c', now()), ('todo', 'tasks', '', 'u', 'insert', '{}', 'c', now()),
            ('todo', 'tasks', repeat('x', 3000), 'u', 'insert', '{}', 'c', now()), ('todo', 'tasks', 'a', 'u', 'insert', '{}', 'c', 'infinity'),
            ('todo', 'tasks', 'b', 'u', 'insert', '{}', '', '1960-01-01')";
    script(&url, "drop index idx_sync_changes_table_record").await;
    script(&url, odd).await;
    let said = migrated(&url, &[]).await;
    assert!(
        said.contains("1000 rows were taken over") && said.contains("7 rows, which no device could read"),
        "{said}"
    );
    let of_u: i64 =
        value(&url, "select count(*) from sync_changes where user_id = 'u' and record_id = 'b' and client_id = 'sql'")
            .await;
    assert_eq!((of_u, value(&url, "select count(*) from sync_changes_before").await), (1, 1_007_i64));
}

#[tokio::test]
async fn an_empty_database_of_before_becomes_an_empty_one_of_ours() {
    for form in [Form::Older, Form::Newest] {
        let url = create_database().await;
        script(&url, form.schema()).await;
        assert!(migrated(&url, &[]).await.contains("0 rows were taken over"));
        assert!(migrated(&url, &["--drop-old"]).await.contains("has been dropped"));
        assert!(migrated(&url, &["--drop-old"]).await.contains("There is no table of the previous server"));
    }
}

#[tokio::test]
async fn a_starting_replica_waits_for_the_takeover() {
    let url = database(Form::Newest, 20_000, 5).await;
    assert!(super::whole::killed_when(&url, |line| line.contains("rows copied")).await);
    let (port, log) = (free_port().unwrap(), tempfile::NamedTempFile::new().unwrap().into_temp_path());
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("BIND_ADDRESS", "127.0.0.1"),
        ("PORT", &port.to_string()),
        ("JWKS_URL", &jwks_url()),
        ("MIGRATION_WAIT_MS", "60000"),
    ];
    let replica = Replica::spawn(ReplicaOptions {
        exe: exe().into(),
        name: "replica".into(),
        env: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        log: Some(log.to_path_buf()),
        base_url: format!("http://127.0.0.1:{port}"),
    })
    .unwrap();
    eventually("it says what it waits for", async || {
        replica.log_tail().contains("the takeover of the previous server's database is not finished")
    })
    .await;
    migrated(&url, &[]).await;
    replica.wait_ready(TIMEOUT).await.unwrap();
}
