//! A database that cannot serve says so in one sentence: at the start, where nothing but an operator can help, else in
//! readiness, until it is mended.

use mana_dev::{Replica, ReplicaOptions, free_port};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::time::Duration;
use crate::support::*;

const EXE: &str = env!("CARGO_BIN_EXE_mana-sync");

struct Started {
    process: Replica,
    log: tempfile::TempPath,
}

impl Started {
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// What readiness says.
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
    // It counts for new sessions.
    let end = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}' and pid <> pg_backend_pid()",
        name(&url)
    );
    sql(&url, end).await;
    started.process.wait_ready(TIMEOUT).await.unwrap();
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
    replica(&settings).refuses("lets this role have 5 connections and this replica needs 22").await;
    let started = replica(&[&settings[..], &[("DATABASE_POOL_SIZE", "3")]].concat());
    started.process.wait_ready(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_listener_that_hears_another_database_is_not_ready_and_says_so() {
    let (url, other) = (migrated().await, migrated().await);
    let started = replica(&[("DATABASE_URL", &url), ("DATABASE_LISTEN_URL", &other)]);
    started.says("DATABASE_LISTEN_URL leads to another database than DATABASE_URL").await;
    assert!(started.log().contains("leads to another database"), "{}", started.log());
    tokio::time::timeout(Duration::from_secs(1), started.process.ended()).await.expect_err("it goes on trying");
}
