//! Distribution, and what operators and programs find afterwards.

use crate::cluster::*;
use crate::support::live::*;
use crate::support::*;
use crate::{AT, BUCKETS};
use serde_json::{Value, json};
use tokio::process::Command;

const EXE: &str = env!("CARGO_BIN_EXE_mana-sync");

pub async fn run(url: &str, arguments: &[&str]) -> (bool, String) {
    let done = Command::new(EXE).args(arguments).env("DATABASE_URL", url).output().await.unwrap();
    let said = if done.status.success() { done.stdout } else { done.stderr };
    (done.status.success(), String::from_utf8(said).unwrap())
}

pub async fn succeeded(url: &str, arguments: &[&str]) -> String {
    let (success, said) = run(url, arguments).await;
    assert!(success, "{arguments:?}: {said}");
    said
}

pub fn one(id: &str) -> Value {
    json!({ "clientId": "phone", "changes": [insert("todos", id, "Milk", AT)] })
}

#[tokio::test]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_full_database_is_distributed_and_everything_works_as_before() {
    let url = create_database().await;
    // As on servers where other programs have each schema distributed as it is created.
    let database = url.rsplit('/').next().unwrap();
    sql(&url, format!("alter database {database} set citus.enable_schema_based_sharding = on")).await;
    let mut cluster = Cluster::start_over(&url).await;
    let users = users_of_all(&cluster, 2);
    let mut pages = Vec::new();
    for user in &users {
        for n in 0..3 {
            cluster.pushed(user, APP, one(&format!("r{n}"))).await;
        }
        let later = update("todos", "r0", "title", "Eggs", "2024-01-02T10:05:00.000Z");
        cluster.pushed(user, APP, json!({ "clientId": "phone", "changes": [later] })).await;
    }
    succeeded(&url, &["compact", "--compact-after-ms", "1"]).await;
    for user in &users {
        pages.push(cluster.pulled(user, APP, "todos", BEGINNING, None).await);
    }
    let (success, said) = run(&url, &["distribute", "--buckets", "4"]).await;
    assert!(!success && said.contains("are connected"), "{said}");
    cluster.nodes[0].process.kill().await;

    let said = succeeded(&url, &["distribute", "--buckets", "4"]).await;
    assert!(said.contains("Citus has distributed the buckets"), "{said}");
    assert!(succeeded(&url, &["distribute", "--buckets", "4"]).await.contains("nothing to do"));
    assert!(succeeded(&url, &["migrate"]).await.contains("nothing to do"));
    assert_eq!(number(&url, "select count(*) from citus_schemas").await, i64::from(BUCKETS));
    assert_eq!(number(&url, "select count(distinct nodeport) from citus_shards").await, 2, "both workers have some");
    let refuses = "select count(*) from pg_description
        where objoid = 'sync_heads'::regclass and description = 'replicas must know migration 13'";
    assert_eq!(number(&url, refuses).await, 1, "replicas that do not know Citus do not start");

    cluster.nodes[0].restart().await;
    for (user, page) in users.iter().zip(&pages) {
        assert_eq!(cluster.pulled(user, APP, "todos", BEGINNING, None).await, *page, "what it was before");
        let since = page["syncedUntil"].as_str().unwrap();
        let mut socket = socket(&cluster, 0, user, None, None).await;
        cluster.pushed(user, APP, one("r0")).await;
        cluster.pushed(user, APP, one("new")).await;
        woken(&mut socket).await;
        assert_eq!(ids(&cluster.pulled(user, APP, "todos", since, None).await), ["new"], "stored once, in one log");
    }
}

/// As suites do, which share the servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn databases_are_created_at_once() {
    for _ in 0..3 {
        let created = (0..8).map(|_| tokio::spawn(create_database()));
        for url in futures_util::future::join_all(created).await {
            let servers = "select count(*) from pg_dist_node where isactive and metadatasynced";
            assert_eq!(number(&url.unwrap(), servers).await, 3);
        }
    }
}

#[tokio::test]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn buckets_of_one_server_go_to_a_citus_that_comes_later() {
    let url = create_database().await;
    succeeded(&url, &["migrate"]).await;
    // As on a server without the extension.
    sql(&url, "alter function citus_schema_distribute(regnamespace) rename to hidden").await;
    let said = succeeded(&url, &["distribute", "--buckets", "4"]).await;
    assert!(!said.contains("Citus"), "{said}");
    sql(&url, "alter function hidden(regnamespace) rename to citus_schema_distribute").await;
    let cluster = Cluster::start_over(&url).await;
    let user = cluster.user();
    cluster.pushed(&user, APP, one("a")).await;
    let (success, said) = run(&url, &["distribute", "--buckets", "8"]).await;
    assert!(!success && said.contains("distributed over 4 buckets already"), "{said}");
    drop(cluster);
    let said = succeeded(&url, &["distribute", "--buckets", "4"]).await;
    assert!(said.contains("Citus has distributed the buckets"), "{said}");
    let cluster = Cluster::start_over(&url).await;
    let user = cluster.user_named(&user.id);
    assert_eq!(ids(&cluster.pulled(&user, APP, "todos", BEGINNING, None).await), ["a"]);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn operators_find_users_wherever_they_are() {
    let url = create_database().await;
    distribute(&url, &BUCKETS.to_string()).await;
    let cluster = Cluster::start_over(&url).await;
    let users = users_of_all(&cluster, 1);
    for user in &users {
        cluster.pushed(user, APP, one("a")).await;
        let later = update("todos", "a", "title", "Eggs", "2024-01-02T10:05:00.000Z");
        cluster.pushed(user, APP, json!({ "clientId": "phone", "changes": [later] })).await;
    }
    let usage = succeeded(&url, &["usage", "--json"]).await;
    for user in &users {
        assert!(usage.contains(&user.id), "{usage}");
        let exported = succeeded(&url, &["export", "--user", &user.id]).await;
        assert!(exported.contains("Eggs"), "{exported}");
        let why = ["why", "--user", &user.id, "--app", APP, "--table", "todos", "--record", "a", "--field", "title"];
        let why = succeeded(&url, &why).await;
        assert!(why.contains("Eggs") && why.contains("Milk"), "{why}");
    }
    let compacted = succeeded(&url, &["compact", "--compact-after-ms", "1"]).await;
    assert!(compacted.starts_with("4 logs: 8 changes examined, 4 trimmed"), "{compacted}");
    assert_eq!(number(&url, "select count(*) from sync_b01.sync_history").await, 1, "each bucket keeps its own");
    // What was trimmed is recognized when it is sent again.
    let (_, before) = cluster.pull(&users[1], APP, "todos", BEGINNING, None).await;
    cluster.pushed(&users[1], APP, one("a")).await;
    assert_eq!(cluster.pulled(&users[1], APP, "todos", BEGINNING, None).await, before);
    let mut socket = socket(&cluster, 0, &users[1], None, None).await;
    succeeded(&url, &["erase", "--user", &users[1].id, "--yes"]).await;
    woken(&mut socket).await;
    assert_eq!(cluster.stored(&users[1]).await, 0);
    assert!(cluster.stored(&users[2]).await > 0);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn programs_write_read_and_erase_and_are_told_what_does_not_work() {
    let url = create_database().await;
    distribute(&url, &BUCKETS.to_string()).await;
    let cluster = Cluster::start_over(&url).await;
    for user in users_of_all(&cluster, 1) {
        let mut socket = socket(&cluster, 0, &user, None, None).await;
        let pushed = json!([insert("todos", "pushed", "Milk", AT)]);
        let cursor = text(&url, format!("select sync_push('{}', 'todo', 'importer', '{pushed}')", user.id)).await;
        assert_eq!(cursor.len(), 27);
        woken(&mut socket).await;
        sql(&url, program_insert(&user)).await;
        let page = cluster.pulled(&user, "todo", "todos", BEGINNING, None).await;
        assert_eq!(ids(&page), ["pushed", "plain"]);
        assert_eq!(page["serverChanges"][1]["actor"]["kind"], "ai");
        // Found by the reconciler: plain inserts send no notification.
        woken(&mut socket).await;
        assert_eq!(number(&url, format!("select count(*) from sync_records('{}', 'todo')", user.id)).await, 2);
        assert_eq!(number(&url, format!("select changes from sync_usage('{}')", user.id)).await, 2);
        let delete = format!("delete from sync_changes where user_id = '{}'", user.id);
        let refused = sqlx::query(sqlx::AssertSqlSafe(delete)).execute(&cluster.pool).await.unwrap_err();
        assert!(refused.to_string().contains("cannot delete from view"), "{refused}");
        assert_eq!(number(&url, format!("select sync_erase('{}')", user.id)).await, 2);
        assert_eq!(cluster.stored(&user).await, 0);
    }
}

/// A command may trim changes younger than the replicas' own horizon: these are recognized too, even if the command was
/// killed after its first piece.
#[tokio::test]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn what_a_shorter_horizon_trimmed_is_recognized() {
    let url = create_database().await;
    distribute(&url, &BUCKETS.to_string()).await;
    let cluster = Cluster::start_over(&url).await;
    let now = now_millis();
    for user in users_of_all(&cluster, 1) {
        let push = async |value: i64| {
            let change = update("todos", "a", "title", value, &iso(now - 10_000 + value));
            cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": [change] })).await
        };
        for value in [1, 2, 3] {
            push(value).await;
        }
        let bucket = format!("sync_b{:02}", bucket_of(&user));
        for undo in ["select 1::int8", "update HEADS set trimmed_to = 'epoch' where user_id = 'USER'"] {
            succeeded(&url, &["compact", "--compact-after-ms", "1", "--user", &user.id]).await;
            sql(&url, undo.replace("HEADS", &format!("{bucket}.sync_heads")).replace("USER", &user.id)).await;
            assert_eq!(cluster.stored(&user).await, 2);
            push(2).await;
            assert_eq!(cluster.stored(&user).await, 2, "it was stored again: {undo}");
        }
        // With a new change, which is stored.
        let old = update("todos", "a", "title", 2, &iso(now - 9_998));
        let changes = json!([old, update("todos", "b", "title", 2, &iso(now))]);
        cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await;
        assert_eq!(cluster.stored(&user).await, 3);
    }
}

/// Like a database that an earlier version distributed: a migration adds a column and recreates functions.
#[tokio::test]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn later_migrations_reach_every_bucket() {
    let url = create_database().await;
    distribute(&url, &BUCKETS.to_string()).await;
    let buckets: Vec<String> = (0..BUCKETS).map(|bucket| format!("sync_b{bucket:02}")).collect();
    sql(&url, "drop view sync_heads").await;
    for schema in buckets.iter().map(|bucket| format!("{bucket}.")).chain([String::new()]) {
        let heads = if schema.is_empty() { "sync_heads_undistributed" } else { "sync_heads" };
        sql(&url, format!("alter table {schema}{heads} drop column trim_horizon")).await;
        sql(&url, format!("delete from {schema}_sqlx_migrations where version = 16")).await;
    }
    let parts: Vec<String> = buckets.iter().map(|bucket| format!("select * from {bucket}.sync_heads")).collect();
    sql(&url, format!("create view sync_heads as {}", parts.join(" union all "))).await;
    assert!(succeeded(&url, &["migrate"]).await.contains("1 applied"));
    assert_eq!(number(&url, "select count(trim_horizon) from sync_heads").await, 0);
    let cluster = Cluster::start_over(&url).await;
    for user in users_of_all(&cluster, 1) {
        cluster.pushed(&user, APP, one("a")).await;
        succeeded(&url, &["compact", "--user", &user.id]).await;
        succeeded(&url, &["erase", "--user", &user.id, "--yes"]).await;
        assert_eq!(cluster.stored(&user).await, 0);
    }
}
