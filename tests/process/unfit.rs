//! A database that cannot serve is reported in one sentence: at startup if only an operator can help, otherwise in
//! readiness until it is fixed.

use crate::support::*;
use mana_dev::{Replica, ReplicaOptions, Shutdown, TemporaryPostgres, free_port};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const EXE: &str = env!("CARGO_BIN_EXE_mana-sync");

struct Started {
    process: Replica,
    log: tempfile::TempPath,
}

impl Started {
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The status and text of readiness.
    async fn readiness(&self) -> Option<(u16, String)> {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer =
            http.get(format!("{}/health/ready", self.process.base_url())).timeout(TIMEOUT).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    async fn says(&self, sentence: &str) {
        eventually(sentence, async || {
            self.readiness().await.is_some_and(|(status, text)| status == 503 && text.contains(sentence))
        })
        .await;
    }

    async fn refuses(self, sentence: &str) {
        let status = tokio::time::timeout(TIMEOUT, self.process.ended()).await.expect("it must stop");
        assert!(!status.success());
        assert!(self.log().contains(sentence), "{}", self.log());
    }
}

fn replica(settings: &[(&str, &str)]) -> Started {
    let port = free_port().unwrap();
    let (port_text, jwks) = (port.to_string(), jwks_url());
    let own = [("BIND_ADDRESS", "127.0.0.1"), ("PORT", &port_text), ("JWKS_URL", &jwks), ("READY_GRACE_MS", "0")];
    let env = own.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let log = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let base_url = format!("http://127.0.0.1:{port}");
    let options =
        ReplicaOptions { exe: EXE.into(), name: "replica".into(), env, log: Some(log.to_path_buf()), base_url };
    Started { process: Replica::spawn(options).unwrap(), log }
}

async fn migrate(url: &str) -> std::process::Output {
    tokio::process::Command::new(EXE).arg("migrate").env("DATABASE_URL", url).output().await.unwrap()
}

async fn migrated() -> String {
    let url = create_database().await;
    assert!(migrate(&url).await.status.success());
    url
}

async fn sql(url: &str, statement: String) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
}

fn name(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

#[tokio::test]
async fn one_that_is_not_utf_8_stops_the_migration_and_the_start() {
    let url = create_database().await;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let other = format!("{}_{}", name(&url), encoding.to_lowercase());
        sql(&url, format!("create database {other} encoding '{encoding}' locale 'C' template template0")).await;
        let other = url.replace(name(&url), &other);
        let sentence = format!("the database's encoding is {encoding} and must be UTF8");
        let done = migrate(&other).await;
        assert!(!done.status.success() && String::from_utf8_lossy(&done.stderr).contains(&sentence), "{done:?}");
        replica(&[("DATABASE_URL", &other)]).refuses(&sentence).await;
    }
}

#[tokio::test]
async fn one_that_is_read_only_says_so_until_it_is_not() {
    let url = migrated().await;
    let set = |to: &str| format!("begin; set transaction read write; alter database {} {to}; commit", name(&url));
    sql(&url, set("set default_transaction_read_only = on")).await;
    let started = replica(&[("DATABASE_URL", &url)]);
    started.says("the database is read-only: default_transaction_read_only is on").await;
    sql(&url, set("reset default_transaction_read_only")).await;
    // The change applies to new sessions.
    let end = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}' and pid <> pg_backend_pid()",
        name(&url)
    );
    sql(&url, end).await;
    started.process.wait_ready(TIMEOUT).await.unwrap();
}

/// Migrations cannot be applied either, even though there are none to apply.
#[tokio::test]
async fn one_that_is_read_only_says_so_to_a_replica_that_migrates() {
    let url = migrated().await;
    sql(&url, format!("alter database {} set default_transaction_read_only = on", name(&url))).await;
    let started = replica(&[("DATABASE_URL", &url), ("MIGRATE_ON_START", "true")]);
    started.says("the database is read-only: default_transaction_read_only is on").await;
    let done = migrate(&url).await;
    assert!(!done.status.success() && String::from_utf8_lossy(&done.stderr).contains("read-only"), "{done:?}");
    let reset = format!(
        "begin; set transaction read write; alter database {} reset default_transaction_read_only; commit",
        name(&url)
    );
    sql(&url, reset).await;
    started.process.wait_ready(TIMEOUT).await.unwrap();
}

/// Ends all sessions of a database except the current one.
fn end_sessions(url: &str) -> String {
    format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}' and pid <> pg_backend_pid()",
        name(url)
    )
}

#[tokio::test]
async fn several_hosts_of_which_none_can_be_written_to_say_so_at_the_start_and_later() {
    let url = migrated().await;
    let host = url.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
    let both = url.replace(&host, &format!("{host},{host}"));
    let set = |to: &str| format!("begin; set transaction read write; alter database {} {to}; commit", name(&url));
    sql(&url, set("set default_transaction_read_only = on")).await;
    let started = replica(&[("DATABASE_URL", &both)]);
    let sentence = "none of the database hosts is writable at the moment";
    started.says(sentence).await;
    sql(&url, set("reset default_transaction_read_only")).await;
    started.process.wait_ready(TIMEOUT).await.unwrap();
    sql(&url, set("set default_transaction_read_only = on")).await;
    sql(&url, end_sessions(&url)).await;
    started.says(sentence).await;
}

/// On a first installation the replicas start together with the migration that creates their role.
#[tokio::test]
async fn a_role_that_a_migration_may_create_is_waited_for_as_long_as_the_migration() {
    let url = create_database().await;
    let role = format!("late_{}", name(&url));
    let late = url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    replica(&[("DATABASE_URL", &late)]).refuses("does not exist").await;
    let waiting = replica(&[("DATABASE_URL", &late), ("MIGRATION_WAIT_MS", "60000")]);
    waiting.says("the database refused the URL's role, or its password (SQLSTATE 28000)").await;
    sql(&url, format!("create role {role} login")).await;
    waiting.says("the schema lacks migration 1").await;
    assert!(migrate(&url).await.status.success());
    let rights = format!(
        "grant all on all tables in schema public to {role}; grant execute on all functions in schema public to {role}"
    );
    sql(&url, rights).await;
    waiting.process.wait_ready(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn one_that_is_full_says_so_until_there_is_a_place() {
    let url = migrated().await;
    let role = format!("full_{}", name(&url));
    let rights = format!(
        "grant all on all tables in schema public to {role}; grant execute on all functions in schema public to {role}"
    );
    sql(&url, format!("create role {role} login connection limit 0; {rights}")).await;
    let full = url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    for mode in ["disable", "allow", "prefer"] {
        let started = replica(&[("DATABASE_URL", &format!("{full}?sslmode={mode}"))]);
        started.says("the database accepts no more connections").await;
        sql(&url, format!("alter role {role} connection limit 100")).await;
        started.process.wait_ready(TIMEOUT).await.unwrap();
        sql(&url, format!("alter role {role} connection limit 0; {}", end_sessions(&url))).await;
        started.says("the database accepts no more connections").await;
    }
}

/// PostgreSQL reports this with the code of a missing right.
#[tokio::test]
async fn one_whose_files_may_not_be_read_says_so_until_they_may() {
    let mut postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let url = postgres.server().create_database("sync").await.unwrap();
    assert!(migrate(&url).await.status.success());
    let started = replica(&[("DATABASE_URL", &url)]);
    started.process.wait_ready(TIMEOUT).await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let path = sqlx::query_scalar::<_, String>("select pg_relation_filepath('sync_layout')");
    let file = postgres.server().data_dir().join(path.fetch_one(&mut connection).await.unwrap());
    let allow = |mode| std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    sql(&url, "checkpoint".to_owned()).await;
    allow(0o000);
    // What is in memory, or open, could still be read.
    postgres.server_mut().restart(Shutdown::Fast).await.unwrap();
    started.says("PostgreSQL itself may not use its files").await;
    assert!(!started.readiness().await.unwrap().1.contains("grants.sql"));
    allow(0o600);
    started.process.wait_ready(TIMEOUT).await.unwrap();
}

/// Hardened databases revoke this right from everybody.
#[tokio::test]
async fn a_schema_that_may_not_be_used_is_named_at_the_start_and_later() {
    let url = migrated().await;
    let role = format!("outside_{}", name(&url));
    let rights = format!(
        "grant all on all tables in schema public to {role}; grant execute on all functions in schema public to {role};
         revoke usage on schema public from public"
    );
    sql(&url, format!("create role {role} login; {rights}")).await;
    let outside = url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    let started = replica(&[("DATABASE_URL", &outside)]);
    started.says("lacks rights: USAGE on schema public").await;
    assert!(!started.log().contains("lacks migration"), "{}", started.log());
    sql(&url, format!("grant usage on schema public to {role}")).await;
    started.process.wait_ready(TIMEOUT).await.unwrap();
    sql(&url, format!("revoke usage on schema public from {role}; {}", end_sessions(&url))).await;
    started.says("lacks rights: USAGE on schema public").await;
    sql(&url, format!("grant usage on schema public to {role}; revoke select on _sqlx_migrations from {role}")).await;
    started.process.wait_ready(TIMEOUT).await.unwrap();
    replica(&[("DATABASE_URL", &outside)]).says("lacks rights: SELECT on _sqlx_migrations").await;
}

#[tokio::test]
async fn each_right_that_a_replica_needs_is_named_if_it_is_missing() {
    let url = migrated().await;
    let role = format!("needy_{}", name(&url));
    sql(&url, format!("create role {role} login; grant all on all tables in schema public to {role}")).await;
    let needy = url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    let started = replica(&[("DATABASE_URL", &needy), ("DATABASE_LISTEN_URL", &url)]);
    started.process.wait_ready(TIMEOUT).await.unwrap();
    for (right, table) in [
        ("SELECT", "sync_heads"),
        ("INSERT", "sync_heads"),
        ("UPDATE", "sync_heads"),
        ("SELECT", "sync_changes"),
        ("INSERT", "sync_changes"),
        ("SELECT", "sync_history"),
        ("SELECT", "sync_erased"),
        ("SELECT", "sync_layout"),
    ] {
        sql(&url, format!("revoke {right} on {table} from {role}, public")).await;
        started.says(&format!("lacks rights: {right} on {table}")).await;
        sql(&url, format!("grant {right} on {table} to {role}")).await;
        started.process.wait_ready(TIMEOUT).await.unwrap();
    }
}

/// Some operators take from everybody what lets them disturb others, or see who is there.
#[tokio::test]
async fn rights_that_everybody_has_by_default_are_named_if_they_are_missing() {
    let url = migrated().await;
    let role = format!("bare_{}", name(&url));
    sql(&url, format!("create role {role} login; grant all on all tables in schema public to {role}")).await;
    let bare = url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    for right in [
        "EXECUTE on function pg_notify(text,text)",
        "EXECUTE on function pg_notification_queue_usage()",
        "SELECT on pg_roles",
        "SELECT on pg_database",
    ] {
        sql(&url, format!("revoke {right} from public")).await;
        let started = replica(&[("DATABASE_URL", &bare), ("COMPACT_AFTER_MS", "0")]);
        started.says(&format!("lacks rights: {right}")).await;
        sql(&url, format!("grant {right} to {role}")).await;
        started.process.wait_ready(TIMEOUT).await.unwrap();
    }
    // This one is not needed.
    sql(&url, "revoke select on pg_stat_activity from public".to_owned()).await;
    let started = replica(&[("DATABASE_URL", &bare), ("COMPACT_AFTER_MS", "0")]);
    started.process.wait_ready(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_search_path_that_leads_nowhere_is_named() {
    let url = create_database().await;
    sql(&url, format!("alter database {} set search_path = 'nowhere'", name(&url))).await;
    let sentence = "search_path names no schema that exists and that the role may use";
    let done = migrate(&url).await;
    assert!(!done.status.success() && String::from_utf8_lossy(&done.stderr).contains(sentence), "{done:?}");
    let started = replica(&[("DATABASE_URL", &url), ("MIGRATION_WAIT_MS", "60000")]);
    started.says(sentence).await;
    sql(&url, format!("alter database {} reset search_path", name(&url))).await;
    assert!(migrate(&url).await.status.success());
    started.process.wait_ready(TIMEOUT).await.unwrap();
}

/// `mana-sync distribute` grants nobody any rights on what it creates.
#[tokio::test]
async fn rights_to_the_buckets_are_named_if_they_are_missing() {
    let url = migrated().await;
    let mut distribute = tokio::process::Command::new(EXE);
    let done = distribute.args(["distribute", "--buckets", "2"]).env("DATABASE_URL", &url).output().await.unwrap();
    assert!(done.status.success(), "{done:?}");
    let role = format!("bucket_{}", name(&url));
    sql(&url, format!("create role {role} login; grant all on all tables in schema public to {role}")).await;
    let bare = url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    let started = replica(&[("DATABASE_URL", &bare), ("DATABASE_LISTEN_URL", &url)]);
    started.says("lacks rights: USAGE on schema sync_b00").await;
    sql(&url, format!("grant usage on schema sync_b00, sync_b01 to {role}")).await;
    started.says("SELECT on sync_b00.sync_heads").await;
    // Then it can serve some users: a bucket with missing rights affects only its own.
    sql(&url, format!("grant all on all tables in schema sync_b01 to {role}")).await;
    started.process.wait_ready(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_not_ours_is_left_as_it_is() {
    let (url, other) = (migrated().await, create_database().await);
    for migrates in ["false", "true"] {
        let settings = [("DATABASE_URL", &*url), ("DATABASE_LISTEN_URL", &*other), ("MIGRATE_ON_START", migrates)];
        let started = replica(&settings);
        started.says("DATABASE_LISTEN_URL points to a different database than DATABASE_URL").await;
        let mut connection = PgConnection::connect(&other).await.unwrap();
        let tables = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
        let tables: i64 = sqlx::query_scalar(tables).fetch_one(&mut connection).await.unwrap();
        assert_eq!(tables, 0, "MIGRATE_ON_START={migrates}");
    }
    // Two URLs of the same database.
    let same = url.replace("127.0.0.1", "localhost");
    replica(&[("DATABASE_URL", &url), ("DATABASE_LISTEN_URL", &same)]).process.wait_ready(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn one_that_lets_too_few_connect_stops_the_start() {
    let url = migrated().await;
    let role = format!("few_{}", name(&url));
    sql(
        &url,
        format!("create role {role} login connection limit 5; grant all on all tables in schema public to {role}"),
    )
    .await;
    let few = url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    let settings = [("DATABASE_URL", &*few), ("DATABASE_LISTEN_URL", &*url)];
    replica(&settings).refuses("allows this role 5 connections, but this replica needs 22").await;
    let started = replica(&[&settings[..], &[("DATABASE_POOL_SIZE", "3")]].concat());
    started.process.wait_ready(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_listener_that_hears_another_database_is_not_ready_and_says_so() {
    let (url, other) = (migrated().await, migrated().await);
    let started = replica(&[("DATABASE_URL", &url), ("DATABASE_LISTEN_URL", &other)]);
    started.says("DATABASE_LISTEN_URL points to a different database than DATABASE_URL").await;
    assert!(started.log().contains("points to a different database"), "{}", started.log());
    tokio::time::timeout(Duration::from_secs(1), started.process.ended()).await.expect_err("it goes on trying");
}

#[tokio::test]
async fn a_default_that_breaks_a_promise_is_named_at_the_start() {
    let url = migrated().await;
    let log = async || {
        let started = replica(&[("DATABASE_URL", &url)]);
        started.process.wait_ready(TIMEOUT).await.unwrap();
        started.log()
    };
    let (unflushed, little) = ("synchronous_commit is off", "temp_file_limit is below 256 MB");
    let text = log().await;
    assert!(!text.contains(unflushed) && !text.contains(little), "{text}");
    sql(&url, format!("alter database {} set synchronous_commit = off", name(&url))).await;
    sql(&url, format!("alter database {} set temp_file_limit = '255MB'", name(&url))).await;
    let text = log().await;
    assert!(text.contains(unflushed) && text.contains(little), "{text}");
    sql(&url, format!("alter database {} set synchronous_commit = local", name(&url))).await;
    sql(&url, format!("alter database {} set temp_file_limit = '256MB'", name(&url))).await;
    let text = log().await;
    assert!(!text.contains(unflushed) && !text.contains(little), "{text}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL 17 or newer in PG_BIN"]
async fn transactions_that_are_ended_too_soon_are_named() {
    let url = migrated().await;
    sql(&url, format!("alter database {} set transaction_timeout = '5s'", name(&url))).await;
    let doubtful = replica(&[("DATABASE_URL", &url)]);
    doubtful.process.wait_ready(TIMEOUT).await.unwrap();
    assert!(doubtful.log().contains("transaction_timeout is shorter"), "{}", doubtful.log());
    // Nothing can be done within a millisecond, except by sessions that may turn the limit off.
    sql(&url, format!("alter database {} set transaction_timeout = 1", name(&url))).await;
    assert!(migrate(&url).await.status.success());
    replica(&[("DATABASE_URL", &url)]).says("transaction_timeout is too short").await;
}
