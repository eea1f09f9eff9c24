//! What a replica makes of the schema and the settings that it finds at its start, and of a network that breaks then.

mod support;

use mana_sync::dev::{Replica, ReplicaOptions, free_port};
use sqlx::{Connection, PgConnection};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use support::proxy::{Mode, Proxy};
use support::*;
use tokio::time::timeout;

const EXE: &str = env!("CARGO_BIN_EXE_mana-sync");
/// Within this time of the network's return a starting replica must serve.
const BACK: Duration = Duration::from_secs(10);

/// A replica, and its log.
struct Started {
    process: Replica,
    _log: tempfile::TempPath,
}

impl std::ops::Deref for Started {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        &self.process
    }
}

fn replica(url: &str, settings: &[(&str, &str)]) -> Started {
    let port = free_port().unwrap();
    let (port_text, jwks) = (port.to_string(), jwks_url());
    let own = [("DATABASE_URL", url), ("BIND_ADDRESS", "127.0.0.1"), ("PORT", &port_text), ("JWKS_URL", &jwks)];
    let env = own.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let log = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let base_url = format!("http://127.0.0.1:{port}");
    let options =
        ReplicaOptions { exe: EXE.into(), name: "replica".into(), env, log: Some(log.to_path_buf()), base_url };
    Started { process: Replica::spawn(options).unwrap(), _log: log }
}

/// The last lines of a replica that must end by itself, and not in success.
async fn refusal(replica: Started) -> String {
    let status = timeout(PATIENCE, replica.ended()).await.expect("it must stop");
    assert!(!status.success(), "{status}");
    replica.log_tail()
}

async fn migrate(url: &str) -> String {
    let done = tokio::process::Command::new(EXE).arg("migrate").env("DATABASE_URL", url).output().await.unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

async fn sql(url: &str, statement: &'static str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
}

#[tokio::test]
async fn a_schema_that_lacks_a_migration_is_refused_with_what_to_do() {
    let url = create_database().await;
    let said = refusal(replica(&url, &[])).await;
    assert!(said.contains("lacks migration 1") && said.contains("run `mana-sync migrate` first"), "{said}");
    migrate(&url).await;
    replica(&url, &[]).wait_ready(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_start_waits_for_the_migration_but_not_for_ever() {
    let url = create_database().await;
    let waiting = replica(&url, &[("MIGRATION_WAIT_MS", "60000")]);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |path: &str| {
        let asked = http.get(format!("{}{path}", waiting.base_url())).timeout(PATIENCE).send().await;
        asked.ok().map(|answer| answer.status().as_u16())
    };
    eventually("it lives", async || ask("/health/live").await == Some(200)).await;
    assert_eq!(ask("/health/ready").await, Some(503));
    assert!(waiting.log_tail().contains("lacks migration 1"), "{}", waiting.log_tail());
    let impatient = replica(&url, &[("MIGRATION_WAIT_MS", "200")]);
    let said = refusal(impatient).await;
    assert!(said.contains("run `mana-sync migrate` first"), "{said}");
    migrate(&url).await;
    waiting.wait_ready(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_used_until_a_migration_says_that_older_replicas_cannot() {
    let url = create_database().await;
    migrate(&url).await;
    let unknown = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                   values (99, 'from the future', true, '', 0)";
    sql(&url, unknown).await;
    for migrates in ["false", "true"] {
        replica(&url, &[("MIGRATE_ON_START", migrates)]).wait_ready(PATIENCE).await.unwrap();
    }
    assert!(migrate(&url).await.contains("nothing to do"));
    sql(&url, "comment on table sync_heads is 'replicas must know migration 99'").await;
    let said = refusal(replica(&url, &[])).await;
    assert!(said.contains("know migration 99") && said.contains("start a newer version"), "{said}");
}

#[tokio::test]
async fn migrations_by_many_at_once_are_applied_once() {
    let url = create_database().await;
    let migrating = (0..6).map(|_| migrate(&url));
    futures_util::future::join_all(migrating).await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let applied: Vec<i64> =
        sqlx::query_scalar("select version from _sqlx_migrations").fetch_all(&mut connection).await.unwrap();
    assert_eq!(applied.iter().collect::<BTreeSet<_>>().len(), applied.len());
    assert!(applied.contains(&1));
}

#[tokio::test]
async fn replicas_that_migrate_at_their_start_may_all_start_at_once() {
    let url = create_database().await;
    let replicas: Vec<Started> = (0..3).map(|_| replica(&url, &[("MIGRATE_ON_START", "true")])).collect();
    for replica in &replicas {
        replica.wait_ready(PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn a_network_that_swallows_what_a_starting_replica_asks_does_not_hold_it_for_ever() {
    let url = create_database().await;
    migrate(&url).await;
    let upstream: url::Url = url.parse().unwrap();
    let proxy = Proxy::start(upstream.socket_addrs(|| None).unwrap()[0]).await;
    proxy.set(Mode::Swallow);
    let replica = replica(&proxy.url(&url), &[("LOG_FORMAT", "json")]);
    eventually("it says what it waits for", async || replica.log_tail().contains("waiting for the database")).await;
    proxy.set(Mode::Pass);
    replica.wait_ready(BACK).await.unwrap();
}

/// The names in the README's table of settings that have defaults.
fn optional_settings() -> Vec<String> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let rows = readme.lines().filter(|line| line.starts_with("| `") && !line.contains("| required |"));
    let names = rows
        .filter_map(|row| row.split('`').nth(1))
        .filter(|name| name.chars().all(|c| c == '_' || c.is_ascii_uppercase()));
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn an_empty_setting_is_one_that_is_not_set() {
    let url = create_database().await;
    migrate(&url).await;
    let names = optional_settings();
    assert!(names.len() > 40, "{names:?}");
    let is_free = |name: &&String| !["PORT", "BIND_ADDRESS", "JWKS_URL"].contains(&name.as_str());
    let empty: Vec<(&str, &str)> = names.iter().filter(is_free).map(|name| (name.as_str(), "")).collect();
    replica(&url, &empty).wait_ready(PATIENCE).await.unwrap();
    let said = refusal(replica("", &[])).await;
    assert!(said.contains("--database-url"), "{said}");
}
