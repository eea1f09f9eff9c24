//! Startup: the schema and settings that a replica finds, and a network that breaks meanwhile.

use crate::support::proxy::{Mode, Proxy};
use crate::support::*;
use mana_dev::{Replica, ReplicaOptions, free_port};
use sqlx::{Connection, PgConnection};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

const EXE: &str = env!("CARGO_BIN_EXE_mana-sync");
/// Maximum time from the network's return until a starting replica serves.
const BACK: Duration = Duration::from_secs(30);

/// A replica with its log.
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

/// The last log lines of a replica that must exit with an error.
async fn refusal(replica: Started) -> String {
    let status = timeout(TIMEOUT, replica.ended()).await.expect("it must stop");
    assert!(!status.success(), "{status}");
    replica.log_tail()
}

pub async fn migrate(url: &str) -> String {
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
    replica(&url, &[]).wait_ready(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_start_waits_for_the_migration_but_not_for_ever() {
    let url = create_database().await;
    let waiting = replica(&url, &[("MIGRATION_WAIT_MS", "60000")]);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |path: &str| {
        let asked = http.get(format!("{}{path}", waiting.base_url())).timeout(TIMEOUT).send().await;
        asked.ok().map(|answer| answer.status().as_u16())
    };
    eventually("it lives", async || ask("/health/live").await == Some(200)).await;
    assert_eq!(ask("/health/ready").await, Some(503));
    let said = http.get(format!("{}/health/ready", waiting.base_url())).send().await.unwrap().text().await.unwrap();
    assert!(said.contains("the replica is waiting for its database: the schema lacks migration 1"), "{said}");
    assert!(waiting.log_tail().contains("lacks migration 1"), "{}", waiting.log_tail());
    let impatient = replica(&url, &[("MIGRATION_WAIT_MS", "200")]);
    let said = refusal(impatient).await;
    assert!(said.contains("run `mana-sync migrate` first"), "{said}");
    migrate(&url).await;
    waiting.wait_ready(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_used_until_a_migration_says_that_older_replicas_cannot() {
    let url = create_database().await;
    migrate(&url).await;
    let unknown = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                   values (99, 'from the future', true, '', 0)";
    sql(&url, unknown).await;
    for migrates in ["false", "true"] {
        replica(&url, &[("MIGRATE_ON_START", migrates)]).wait_ready(TIMEOUT).await.unwrap();
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
        replica.wait_ready(TIMEOUT).await.unwrap();
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

/// The names of the documented settings that are not required.
fn optional_settings() -> Vec<String> {
    let page = document("docs/configuration.md");
    let rows = page.lines().filter(|line| line.starts_with("| `") && !line.contains("| required |"));
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
    replica(&url, &empty).wait_ready(TIMEOUT).await.unwrap();
    let said = refusal(replica("", &[])).await;
    assert!(said.contains("--database-url"), "{said}");
}

/// Reads a document of the repository.
pub fn document(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The program with these arguments and settings, and an issuer; its environment is otherwise empty.
pub fn program(words: &[String], settings: &[(&str, &str)]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(EXE);
    command.args(words).env_clear().env("JWKS_URL", jwks_url()).envs(settings.iter().copied()).kill_on_drop(true);
    command.stdout(std::process::Stdio::null());
    command
}

/// Waits until a replica with these settings serves and passes the image's health check.
pub async fn assert_serves(what: &str, words: &[String], settings: &[(&str, &str)], port: u16) {
    let mut replica = program(words, settings).spawn().unwrap();
    let port = port.to_string();
    eventually(what, async || {
        assert_eq!(replica.try_wait().unwrap(), None, "{what} ended");
        let health = program(&["health".to_owned()], &[("PORT", &port)]);
        { health }.stderr(std::process::Stdio::null()).status().await.unwrap().success()
    })
    .await;
    replica.kill().await.unwrap();
}

#[tokio::test]
async fn settings_may_be_options_with_and_without_a_command() {
    let url = create_database().await;
    migrate(&url).await;
    for command in [None, Some("serve")] {
        let port = free_port().unwrap();
        let options = [format!("--port={port}"), "--bind-address".to_owned(), "127.0.0.1".to_owned()];
        let words: Vec<String> = command.map(str::to_owned).into_iter().chain(options).collect();
        assert_serves(&format!("{words:?}"), &words, &[("DATABASE_URL", &url)], port).await;
        // An option takes precedence over the environment.
        let settings = [("DATABASE_URL", &*url), ("PORT", "1"), ("BIND_ADDRESS", "192.0.2.1")];
        assert_serves(&format!("{words:?} against the environment"), &words, &settings, port).await;
    }
}

#[tokio::test]
async fn without_what_is_required_it_says_what_is_missing() {
    for words in [&[][..], &["serve".to_owned()], &["--port=3050".to_owned()], &["migrate".to_owned()]] {
        let done = program(words, &[]).output().await.unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success(), "{words:?}");
        assert!(said.contains("--database-url <DATABASE_URL>") && !said.contains("panicked"), "{words:?}: {said}");
    }
    // An invalid setting does not stop a command that needs no settings.
    let done = program(&["--version".to_owned()], &[("PORT", "wrong")]).output().await.unwrap();
    assert!(done.status.success(), "{done:?}");
    let done = program(&["health".to_owned()], &[("DATABASE_URL", "wrong"), ("PORT", "1")]).output().await.unwrap();
    assert!(!String::from_utf8(done.stderr).unwrap().contains("DATABASE_URL"));
}

#[tokio::test]
async fn the_help_documents_every_setting() {
    let help = program(&["--help".to_owned()], &[]).output().await.unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for name in optional_settings() {
        assert!(help.contains(&format!("[env: {name}")), "{name}");
    }
    assert!(help.contains("[env: DATABASE_URL") && help.contains("  migrate "));
}

#[tokio::test]
async fn the_help_shows_no_part_of_what_may_be_secret() {
    let secret = [
        ("DATABASE_URL", "postgres://u:s3cret@h/db"),
        ("DATABASE_LISTEN_URL", "postgres://u:s3cret@h/db"),
        ("DATABASE_WORKER_URLS", "postgres://u:s3cret@h/db"),
        ("JWKS_URL", "https://u:s3cret@issuer.example/jwks"),
        ("MANA_CREDITS_URL", "https://u:s3cret@credits.example"),
        ("MANA_SERVICE_KEY", "s3cret"),
        ("CHANNEL_KEY", "s3cret"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:s3cret@collector.example"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://u:s3cret@collector.example/v1/traces"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret"),
    ];
    let commands = ["", "migrate", "erase", "why", "compact", "distribute", "health", "replicas"];
    for command in commands {
        let words: Vec<String> =
            [command, "--help"].iter().filter(|word| !word.is_empty()).map(|word| (*word).to_owned()).collect();
        let help = program(&words, &secret).output().await.unwrap();
        let help = format!("{}{}", String::from_utf8_lossy(&help.stdout), String::from_utf8_lossy(&help.stderr));
        assert!(!help.is_empty() && !help.contains("s3cret"), "{command}: {help}");
    }
}

#[tokio::test]
async fn what_is_for_development_is_warned_of_once_at_the_start() {
    let url = create_database().await;
    migrate(&url).await;
    let warned = |replica: &Started, about: &str| {
        let log = replica.log_tail();
        log.lines().filter(|line| line.contains("WARN") && line.contains(about)).count()
    };
    // Unreachable addresses: the replica starts, but does not become ready.
    let plain = [
        ("JWKS_URL", "http://user:Hunter2@192.0.2.1/jwks"),
        ("MANA_CREDITS_URL", "http://user:Hunter2@192.0.2.1/"),
        ("MANA_SERVICE_KEY", mana_dev::SERVICE_KEY),
    ];
    let all = replica(&url, &plain);
    eventually("it serves", async || all.log_tail().contains("serving")).await;
    for setting in ["MANA_SERVICE_KEY is the ", "JWKS_URL is plain", "MANA_CREDITS_URL is plain", "JWT_AUDIENCE is not"]
    {
        assert_eq!(warned(&all, setting), 1, "{setting}: {}", all.log_tail());
    }
    assert!(
        !all.log_tail().contains("Hunter2") && !all.log_tail().contains(mana_dev::SERVICE_KEY),
        "{}",
        all.log_tail()
    );

    // The settings of the production overlay.
    let overlay = document("k8s/overlays/production/kustomization.yaml");
    let secrets = document("k8s/overlays/production/secrets.env.example");
    let literals = overlay.lines().filter_map(|line| line.trim().strip_prefix("- ")).chain(secrets.lines());
    let settings: Vec<(&str, &str)> = literals.filter_map(|line| line.split_once('=')).collect();
    let is_checked = |(name, _): &&(&str, &str)| ["JWKS_URL", "MANA_CREDITS_URL", "MANA_SERVICE_KEY"].contains(name);
    assert_eq!(settings.iter().filter(is_checked).count(), 3, "{settings:?}");
    let ours = |(name, _): &(&str, &str)| !name.starts_with("DATABASE_") && !name.starts_with("OTEL_");
    let settings: Vec<(&str, &str)> = settings.into_iter().filter(ours).collect();
    let as_they_stand = program_log(&url, &settings).await;
    assert_eq!(as_they_stand.matches("MANA_SERVICE_KEY is the key from the examples").count(), 1, "{as_they_stand}");
    let changed = |(name, value)| (name, if value == "change-me" { "changed" } else { value });
    // The limit of open files is this machine's.
    let few = ("MAX_CONNECTIONS", "100");
    let settings: Vec<(&str, &str)> = settings.into_iter().map(changed).chain([few]).collect();
    let none = program_log(&url, &settings).await;
    // Except about the issuer, which is not there.
    let warned = none.lines().find(|line| line.contains("WARN") && !line.contains("cannot fetch the issuer's keys"));
    assert_eq!(warned, None, "{none}");
}

/// The log of a replica with these settings, once it serves.
async fn program_log(url: &str, settings: &[(&str, &str)]) -> String {
    let port = free_port().unwrap().to_string();
    let own = [("DATABASE_URL", url), ("BIND_ADDRESS", "127.0.0.1"), ("PORT", &port)];
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = program(&[], &[settings, &own].concat());
    let mut replica = command.stdout(log.reopen().unwrap()).spawn().unwrap();
    let written = || std::fs::read_to_string(log.path()).unwrap();
    eventually("it serves", async || {
        assert_eq!(replica.try_wait().unwrap(), None, "it ended");
        written().contains("\"serving\"") || written().contains(" serving ")
    })
    .await;
    replica.kill().await.unwrap();
    written()
}
