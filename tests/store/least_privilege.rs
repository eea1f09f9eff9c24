//! A replica as the role of `deploy/grants.sql`: it does everything that it has to, and can do nothing else.

use crate::support::*;
use mana_dev::TemporaryPostgres;
use reqwest::StatusCode;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::path::Path;

const AT: &str = "2024-01-01T10:05:00.000Z";
pub const GRANTS: &str = include_str!("../../deploy/grants.sql");

pub async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// A server, a connection to it, and a replica on it whose role is still a superuser.
async fn replica_as_superuser() -> (TemporaryPostgres, PgConnection, Cluster) {
    let postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let admin = postgres.server().admin_url();
    let mut server = connect(&admin).await;
    sqlx::raw_sql("create role mana_sync_replica login superuser").execute(&mut server).await.unwrap();
    let each = |_: usize, url: &str| {
        let settings = [
            ("DATABASE_URL", as_replica(url)),
            ("DATABASE_LISTEN_URL", as_replica(url)),
            ("READY_GRACE_MS", "0".to_owned()),
            ("COMPACT_AFTER_MS", "400".to_owned()),
        ];
        settings.map(|(name, value)| (name.to_owned(), value)).to_vec()
    };
    let cluster = Cluster::start_each(&admin, 1, each).await;
    (postgres, server, cluster)
}

/// Writes one field twenty times, to have something to trim.
async fn edit_often(cluster: &Cluster, user: &User) {
    for n in 0..20 {
        let body = json!({ "clientId": "phone", "changes": [update("todos", "0", "title", n, &format!("2024-01-02T10:05:{n:02}.000Z"))] });
        cluster.pushed(user, "todo", body).await;
    }
}

/// The schemas with the tables of logs, in order: several if the logs are distributed.
pub async fn schemas(owner: &mut PgConnection) -> Vec<String> {
    let schemas = "select relnamespace::regnamespace::text from pg_class where relname = 'sync_changes' and relkind = 'r' order by 1";
    sqlx::query_scalar(schemas).fetch_all(owner).await.unwrap()
}

#[tokio::test]
async fn a_replica_that_may_not_trim_says_so_before_it_is_ready_and_one_that_serves_goes_on() {
    let (_postgres, mut server, mut cluster) = replica_as_superuser().await;
    let mut owner = connect(&cluster.database_url).await;
    sqlx::raw_sql(GRANTS).execute(&mut owner).await.unwrap();
    sqlx::raw_sql("alter role mana_sync_replica nosuperuser").execute(&mut server).await.unwrap();
    let schemas = schemas(&mut owner).await;
    let mut change = async |what: &str| {
        for schema in &schemas {
            let trimming = format!("function {schema}.sync_trim_rows(uuid[], text[], bool[], bool)");
            sqlx::raw_sql(sqlx::AssertSqlSafe(what.replace("trimming", &trimming))).execute(&mut owner).await.unwrap();
        }
    };
    change("revoke execute on trimming from mana_sync_replica").await;
    cluster.nodes[0].process.kill().await;
    cluster.nodes[0].respawn();
    eventually("it says what is missing", async || {
        let reply = cluster.http.get(format!("{}/health/ready", cluster.url(0))).send().await;
        let message = match reply {
            Ok(reply) => reply.text().await.unwrap(),
            Err(_) => return false,
        };
        let what = ["lacks rights to trim: EXECUTE on ", "sync_trim_rows", "grants.sql"];
        what.iter().all(|what| message.contains(what))
    })
    .await;
    change("grant execute on trimming to mana_sync_replica").await;
    eventually("it is ready", async || cluster.get("/health/ready").await.status == StatusCode::OK).await;

    change("revoke execute on trimming from mana_sync_replica").await;
    let user = cluster.user();
    edit_often(&cluster, &user).await;
    let failed = async || live::metric(&cluster, 0, "mana_sync_compactions_total{outcome=\"failed\"}").await > 0.0;
    eventually("it does not trim", failed).await;
    assert_eq!(cluster.get("/health/ready").await.status, StatusCode::OK, "it serves all the same");
}

#[tokio::test]
async fn a_replica_needs_no_more_than_it_is_granted_and_says_what_is_missing() {
    let (_postgres, mut server, cluster) = replica_as_superuser().await;
    sqlx::raw_sql("alter role mana_sync_replica nosuperuser").execute(&mut server).await.unwrap();
    eventually("it says what is missing", async || {
        let message = cluster.get("/health/ready").await.text;
        let schema = if std::env::var(TEST_BUCKETS).is_ok() { "sync_b00." } else { "" };
        message.contains("DATABASE_URL lacks rights") && message.contains(&format!("INSERT on {schema}sync_changes"))
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

    edit_often(&cluster, &user).await;
    eventually("it trims", async || cluster.stored(&user).await == 4).await;
    let kept =
        sqlx::query_scalar::<_, i64>("select count(*) from sync_history").fetch_one(&cluster.pool).await.unwrap();
    assert!(kept >= 19, "what lost is in the history, and not {kept} rows");
    assert!(live::metric(&cluster, 0, "mana_sync_compaction_rows_total").await >= 19.0);

    let mut replica = connect(&as_replica(&cluster.database_url)).await;
    let statements = [
        "delete from sync_changes",
        "update sync_changes set data = null",
        "insert into sync_history select * from sync_history",
        "select sync_erase('u')",
        "delete from sync_heads",
        "truncate sync_changes",
        "select sync_push('u', 'a', 'c', '[]')",
        "insert into _sqlx_migrations values (99, '', now(), true, '', 0)",
        "create table mine ()",
        "create temporary table mine ()",
    ];
    for schema in schemas(&mut owner).await {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("set search_path = {schema}"))).execute(&mut replica).await.unwrap();
        for statement in statements {
            assert_eq!(code_of(&mut replica, statement).await.as_deref(), Some("42501"), "{schema}: {statement}");
        }
    }
    // What there is in the main schema for programs.
    sqlx::raw_sql("set search_path = public").execute(&mut replica).await.unwrap();
    for statement in ["select sync_erase('u')", "select sync_push('u', 'a', 'c', '[]')", "delete from sync_changes"] {
        assert_eq!(code_of(&mut replica, statement).await.as_deref(), Some("42501"), "{statement}");
    }
    sqlx::raw_sql("create role neighbour login").execute(&mut server).await.unwrap();
    let neighbour = cluster.database_url.replace("postgres://postgres@", "postgres://neighbour@");
    assert!(PgConnection::connect(&neighbour).await.is_err(), "whoever may not connect hears nothing");
}

/// The SQLSTATE with which a statement was refused.
pub async fn code_of(connection: &mut PgConnection, statement: &str) -> Option<String> {
    let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(connection).await.err()?;
    refused.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()))
}

/// Runs `mana-sync migrate --grant` on this database.
async fn migrate(url: &str) -> std::process::Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
    command.args(["migrate", "--grant"]).env("DATABASE_URL", url).env("REPLICA_PASSWORD", "it's a \\ secret");
    command.stdin(std::process::Stdio::null()).kill_on_drop(true).output().await.unwrap()
}

#[tokio::test]
async fn migrating_makes_the_role_with_its_rights_and_its_password() {
    let postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let url = create_database_on(&postgres.server().admin_url()).await;
    for _ in 0..2 {
        let done = migrate(&url).await;
        assert!(done.status.success(), "{done:?}");
        assert!(!String::from_utf8_lossy(&done.stdout).contains("secret"), "{done:?}");
    }
    let mut owner = connect(&url).await;
    let kept = "select rolpassword from pg_authid where rolname = 'mana_sync_replica'";
    let kept: String = sqlx::query_scalar(kept).fetch_one(&mut owner).await.unwrap();
    assert!(kept.starts_with("SCRAM-SHA-256$4096:"), "{kept}");
    let log = std::fs::read_to_string(postgres.server().log_path()).unwrap();
    assert!(!log.contains("a \\ secret"), "PostgreSQL itself never sees the password");
    let may =
        "select has_function_privilege('mana_sync_replica', 'sync_mark_trimmed(uuid, text[], text[])', 'execute')";
    assert!(sqlx::query_scalar::<_, bool>(may).fetch_one(&mut owner).await.unwrap());

    sqlx::raw_sql("create role other login").execute(&mut owner).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "grant connect on database {} to other",
        url.rsplit('/').next().unwrap()
    )))
    .execute(&mut owner)
    .await
    .unwrap();
    let refused = migrate(&url.replace("postgres://postgres@", "postgres://other@")).await;
    assert!(!refused.status.success(), "whoever does not own the tables may not give rights: {refused:?}");
}

#[tokio::test]
async fn rights_are_granted_while_a_replica_adds_a_day_to_the_history() {
    let url = create_database().await;
    assert!(migrate(&url).await.status.success());
    let (mut replica, mut owner) = (connect(&url).await, connect(&url).await);
    sqlx::raw_sql("begin; select sync_history_days(1)").execute(&mut replica).await.unwrap();
    let granting = sqlx::raw_sql(GRANTS).execute(&mut owner);
    let adding = async {
        let waits = "select count(*) > 0 from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'";
        let mut observer = connect(&url).await;
        eventually("the grant waits for the day", async || {
            sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut observer).await.unwrap()
        })
        .await;
        sqlx::raw_sql("commit").execute(&mut replica).await.unwrap();
    };
    let (granted, ()) = tokio::join!(granting, adding);
    granted.unwrap();
}
