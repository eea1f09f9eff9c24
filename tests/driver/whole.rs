//! A replica and its migrations with URLs that work in only one interpretation.

use super::authority::{Authority, Kind};
use super::server::Server;
use super::support::*;
use mana_dev::{Replica, ReplicaOptions, free_port};
use sqlx::{Connection, Executor, PgConnection};

const EXE: &str = env!("CARGO_BIN_EXE_mana-sync");

/// Runs `migrate` with this URL; returns whether it succeeded, and its output.
async fn migrate(url: &str) -> (bool, String) {
    migrate_at_home(url, std::path::Path::new("/nonexistent")).await
}

/// The same with this home directory.
async fn migrate_at_home(url: &str, home: &std::path::Path) -> (bool, String) {
    let mut command = tokio::process::Command::new(EXE);
    let done = command.arg("migrate").env("DATABASE_URL", url).env("HOME", home).output().await.unwrap();
    (
        done.status.success(),
        format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr)),
    )
}

fn replica(url: &str, log: &std::path::Path) -> Replica {
    let port = free_port().unwrap();
    let env = [
        ("DATABASE_URL", url.to_owned()),
        ("BIND_ADDRESS", "127.0.0.1".to_owned()),
        ("PORT", port.to_string()),
        ("JWKS_URL", jwks_url()),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let base_url = format!("http://127.0.0.1:{port}");
    let log = Some(log.to_owned());
    Replica::spawn(ReplicaOptions { exe: EXE.into(), name: "replica".into(), env, log, base_url }).unwrap()
}

#[tokio::test]
async fn one_url_serves_queries_listening_and_migrations() {
    let authority = Authority::new();
    let server = Server::with_tls(authority.issue("server", "localhost", Kind::Old), None).await;
    let mut admin = PgConnection::connect(&format!("{}?sslmode=disable", server.admin_url())).await.unwrap();
    admin.execute("alter database postgres owner to word; grant all on schema public to word").await.unwrap();
    let word = "word:p%40ss%2fw%3ard%3F%23%25%26%20%c3%bc";
    let parameters = format!(
        "sslmode=verify-full&channel_binding=require&sslrootcert={}&target_session_attrs=read-write",
        authority.root().display()
    );
    let dead = free_port().unwrap();
    let hosts = format!("localhost:{dead},nobody.invalid,localhost");
    let url = format!("\n postgresql://{word}@{hosts}:{}/postgres?{parameters} \n", server.port());
    let (migrated, said) = migrate(&url).await;
    assert!(migrated, "{said}");
    assert!(migrate(&url).await.1.contains("nothing to do"));
    let log = tempfile::NamedTempFile::new().unwrap();
    let serving = replica(&url, log.path());
    serving.wait_ready(TIMEOUT).await.unwrap();
    let encrypted = "select bool_and(ssl) and count(*) >= 2 from pg_stat_ssl join pg_stat_activity using (pid) where usename = 'word'";
    let encrypted: bool = sqlx::query_scalar(encrypted).fetch_one(&mut admin).await.unwrap();
    assert!(encrypted, "the listener's and the pool's connections");
    let text = std::fs::read_to_string(log.path()).unwrap();
    assert!(!text.contains("p@ss") && !text.contains("p%40ss"), "{text}");
}

#[tokio::test]
async fn what_will_not_do_stops_the_start_and_says_why() {
    let server = Server::plain().await;
    for (url, why) in [
        (server.url("any", "localhost", "sslmode=require"), "does not support TLS"),
        (server.url("any", "localhost", "sslmode=verify-full"), "sslrootcert"),
        (server.url("word:s3cret", "localhost", ""), "28P01"),
    ] {
        let (migrated, said) = migrate(&url).await;
        assert!(!migrated && said.contains("because") && !said.contains("s3cret"), "{said}");
        let log = tempfile::NamedTempFile::new().unwrap();
        let stopped = replica(&url, log.path());
        let status = tokio::time::timeout(TIMEOUT, stopped.ended()).await.expect("it must stop");
        let text = std::fs::read_to_string(log.path()).unwrap();
        assert!(!status.success() && !text.contains("s3cret"), "{text}");
        assert!(
            text.contains(why) || said.contains(why) || why == "28P01" && text.contains("authentication"),
            "{text} {said}"
        );
    }
}

/// libpq would obey it.
#[tokio::test]
async fn a_list_of_revoked_certificates_where_libpq_looks_for_it_is_not_passed_over() {
    let authority = Authority::new();
    let server = Server::with_tls(authority.issue("server", "localhost", Kind::Named), None).await;
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".postgresql");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(authority.root(), folder.join("root.crt")).unwrap();
    let url = |mode| server.url("postgres", "localhost", &format!("sslmode={mode}"));
    let (migrated, said) = migrate_at_home(&url("verify-full"), home.path()).await;
    assert!(migrated, "{said}");
    std::fs::write(folder.join("root.crl"), "-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n").unwrap();
    for mode in ["require", "verify-ca", "verify-full"] {
        let (migrated, said) = migrate_at_home(&url(mode), home.path()).await;
        assert!(!migrated && said.contains("root.crl"), "{mode}: {said}");
    }
    assert!(migrate_at_home(&url("disable"), home.path()).await.0);
}
