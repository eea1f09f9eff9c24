//! A replica as the role of `deploy/grants.sql`: it does all that it has to, and can do nothing else.

mod support;

use mana_dev::TemporaryPostgres;
use reqwest::StatusCode;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::path::Path;
use support::*;

const AT: &str = "2024-01-01T10:05:00.000Z";
const GRANTS: &str = include_str!("../deploy/grants.sql");

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// The same URL, as the role of replicas.
fn as_replica(url: &str) -> String {
    url.replace("postgres://postgres@", "postgres://mana_sync_replica@")
}

#[tokio::test]
async fn a_replica_needs_no_more_than_it_is_granted_and_says_what_is_missing() {
    let postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let admin = postgres.server().admin_url();
    let mut server = connect(&admin).await;
    sqlx::raw_sql("create role mana_sync_replica login superuser").execute(&mut server).await.unwrap();
    let each = |_: usize, url: &str| {
        let settings = [
            ("DATABASE_URL", as_replica(url)),
            ("DATABASE_LISTEN_URL", as_replica(url)),
            ("READY_GRACE_MS", "0".to_owned()),
        ];
        settings.map(|(name, value)| (name.to_owned(), value)).to_vec()
    };
    let cluster = Cluster::start_each(&admin, 1, each).await;
    sqlx::raw_sql("alter role mana_sync_replica nosuperuser").execute(&mut server).await.unwrap();
    eventually("it says what is missing", async || {
        let message = cluster.get("/health/ready").await.text;
        message.contains("DATABASE_URL lacks rights") && message.contains("INSERT on sync_changes")
    })
    .await;

    let mut owner = connect(&cluster.database_url).await;
    sqlx::raw_sql(GRANTS).execute(&mut owner).await.unwrap();
    sqlx::raw_sql(GRANTS).execute(&mut owner).await.unwrap();
    eventually("it is ready", async || cluster.get("/health/ready").await.status == StatusCode::OK).await;
    let user = cluster.user();
    let mut socket = live::socket(&cluster, 0, &user, None, None).await;
    for n in 0..3 {
        let body = json!({ "clientId": "phone", "changes": [insert("todos", &n.to_string(), "Milk", AT)] });
        cluster.pushed(&user, "todo", body).await;
    }
    live::woken(&mut socket).await;
    assert_eq!(ids(&cluster.pulled(&user, "todo", "todos", BEGINNING, None).await).len(), 3);

    let mut replica = connect(&as_replica(&cluster.database_url)).await;
    for statement in [
        "delete from sync_changes",
        "update sync_changes set data = null",
        "delete from sync_heads",
        "truncate sync_changes",
        "select sync_push('u', 'a', 'c', '[]')",
        "insert into _sqlx_migrations values (99, '', now(), true, '', 0)",
        "create table mine ()",
        "create temporary table mine ()",
    ] {
        let refused = sqlx::raw_sql(statement).execute(&mut replica).await;
        let code =
            refused.err().and_then(|error| error.as_database_error().and_then(|e| e.code().map(|c| c.into_owned())));
        assert_eq!(code.as_deref(), Some("42501"), "{statement}");
    }
    sqlx::raw_sql("create role neighbour login").execute(&mut server).await.unwrap();
    let neighbour = cluster.database_url.replace("postgres://postgres@", "postgres://neighbour@");
    assert!(PgConnection::connect(&neighbour).await.is_err(), "whoever may not connect hears nothing");
}
