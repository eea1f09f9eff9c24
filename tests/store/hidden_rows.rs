//! What row-level security hides from replicas or from the tables' owner is neither skipped (G2) nor taken for erased.

use crate::support::*;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::Command;

const EXE: &str = env!("CARGO_BIN_EXE_mana-sync");
const AT: &str = "2024-01-01T10:05:00.000Z";

async fn sql(url: &str, statement: String) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
}

async fn number(url: &str, query: &'static str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
}

/// A database whose tables belong to a role that is no superuser; returns the URLs of a superuser and of that role, and
/// its name.
async fn owned() -> (String, String, String) {
    let url = create_database().await;
    let role = format!("owner_{}", url.rsplit('/').next().unwrap());
    sql(&url, format!("create role {role} login; grant create on schema public to {role}")).await;
    let theirs = url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    assert!(run(&theirs, &["migrate"]).await.0);
    (url, theirs, role)
}

/// Runs a command; returns whether it succeeded, and its output.
async fn run(url: &str, arguments: &[&str]) -> (bool, String) {
    let done = Command::new(EXE).args(arguments).env("DATABASE_URL", url).output().await.unwrap();
    let text = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8(text).unwrap())
}

fn body(record: &str) -> Value {
    json!({ "clientId": "phone", "since": live::NO_DELTA, "changes": [insert("todos", record, "Milk", AT)] })
}

/// A replica that connects as that role.
async fn replica(url: &str, theirs: String) -> Cluster {
    let settings =
        [("DATABASE_URL", theirs.clone()), ("DATABASE_LISTEN_URL", theirs), ("READY_GRACE_MS", "0".to_owned())];
    Cluster::start_over_with(url, 1, settings.map(|(name, value)| (name.to_owned(), value)).into()).await
}

#[tokio::test]
async fn changes_that_replicas_do_not_see_are_not_skipped() {
    let (url, theirs, role) = owned().await;
    let cluster = replica(&url, theirs).await;
    let user = cluster.user();
    cluster.pushed(&user, "todo", body("a")).await;
    let pull = format!("/sync/todo/pull?collection=todos&since={BEGINNING}");
    let pull = async || Reply::to(cluster.request(&user, reqwest::Method::GET, &pull)).await;
    let sees = async || ids(&cluster.pulled(&user, "todo", "todos", BEGINNING, None).await) == ["a"];
    assert!(sees().await);

    sql(&url, "alter table sync_changes enable row level security, force row level security".to_owned()).await;
    pull().await.refused(503, "unavailable");
    let log = cluster.nodes[0].log();
    assert!(log.contains("row-level security hides rows of sync_changes"), "{log}");

    sql(&url, format!("create policy all_rows on sync_changes to {role} using (true)")).await;
    assert!(sees().await, "there is a policy that hides nothing");
    cluster.pushed(&user, "other", body("a")).await;
    for hides in [
        "create policy only_some on sync_changes as restrictive using (user_id = 'somebody')",
        "drop policy only_some on sync_changes; alter policy all_rows on sync_changes using (user_id = 'somebody')",
    ] {
        sql(&url, hides.to_owned()).await;
        eventually("it is noticed", async || pull().await.status == reqwest::StatusCode::SERVICE_UNAVAILABLE).await;
    }
    sql(&url, "alter table sync_changes disable row level security".to_owned()).await;
    assert!(sees().await);
}

#[tokio::test]
async fn a_hidden_head_is_not_taken_for_a_database_that_went_back() {
    let (url, theirs, role) = owned().await;
    let cluster = replica(&url, theirs).await;
    let user = cluster.user();
    let since = until(&cluster.pushed(&user, "todo", body("a")).await).to_owned();
    let pull = async |since: &str| {
        let path = format!("/sync/todo/pull?collection=todos&since={since}");
        Reply::to(cluster.request(&user, reqwest::Method::GET, &path)).await
    };
    sql(&url, "alter table sync_heads enable row level security, force row level security".to_owned()).await;
    for since in [BEGINNING, &since] {
        eventually("it is noticed", async || pull(since).await.status == 503).await;
    }
    assert_eq!(live::metric(&cluster, 0, "mana_sync_cursors_past_head_total").await, 0.0);
    sql(&url, format!("create policy all_rows on sync_heads to {role} using (true)")).await;
    assert_eq!(pull(&since).await.json()["syncedUntil"], since);
    // Nor is a log that there is not yet taken for a hidden one.
    assert_eq!(ids(&cluster.pulled(&user, "other", "todos", BEGINNING, None).await), [""; 0]);
}

#[tokio::test]
async fn a_replica_that_row_level_security_restricts_is_not_ready_and_says_how() {
    let (url, theirs, role) = owned().await;
    let cluster = replica(&url, theirs).await;
    let ready = async || cluster.get("/health/ready").await;
    // A policy may refuse some writes.
    let all = [
        ("select", "using (true)"),
        ("insert", "with check (log_id is not null)"),
        ("update", "using (log_id is not null)"),
    ];
    for (table, command) in [
        ("sync_changes", "select"),
        ("sync_changes", "insert"),
        ("sync_heads", "select"),
        ("sync_heads", "insert"),
        ("sync_heads", "update"),
        ("sync_history", "select"),
        ("sync_erased", "select"),
    ] {
        let policy = |(command, rows): &(&str, &str)| {
            format!("; create policy may_{command} on {table} for {command} to {role} {rows}")
        };
        let others: String = all.iter().filter(|(other, _)| *other != command).map(policy).collect();
        sql(&url, format!("alter table {table} enable row level security, force row level security{others}")).await;
        let sentence = format!("restricts the role of DATABASE_URL: {} on {table} (", command.to_uppercase());
        eventually(&sentence, async || ready().await.text.contains(&sentence)).await;
        ready().await.refused(503, "not_ready");
        let own = all.iter().find(|(one, _)| *one == command).map(policy).unwrap();
        sql(&url, format!("select{own}")).await;
        eventually("it is ready", async || ready().await.status == 200).await;
        sql(&url, format!("create policy less on {table} as restrictive to {role} using (now() is null)")).await;
        eventually("restricted", async || ready().await.text.contains("restricts the role of DATABASE_URL")).await;
        let policies = ["may_select", "may_insert", "may_update", "less"];
        let drops: String = policies.iter().map(|policy| format!("; drop policy {policy} on {table}")).collect();
        sql(&url, format!("alter table {table} disable row level security{drops}")).await;
        eventually("it is ready", async || ready().await.status == 200).await;
    }
}

#[tokio::test]
async fn nobody_is_erased_whose_changes_the_owner_does_not_see() {
    let (url, theirs, _) = owned().await;
    let push = r#"select sync_push('alice', 'todo', 'p', '[{"table":"todos","id":"a","op":"delete"}]')"#;
    sql(&url, push.to_owned()).await;
    for table in ["sync_changes", "sync_heads", "sync_history"] {
        sql(&url, format!("alter table {table} enable row level security, force row level security")).await;
        let (done, said) = run(&theirs, &["erase", "--user", "alice", "--yes"]).await;
        assert!(!done && said.contains("row-level security policy for table"), "{table}: {said}");
        sql(&url, format!("alter table {table} disable row level security, no force row level security")).await;
        let all = "select (select count(*) from sync_changes) + (select count(*) from sync_heads)";
        assert_eq!(number(&url, all).await, 2, "{table}");
    }
    let (done, said) = run(&theirs, &["erase", "--user", "alice", "--yes"]).await;
    assert!(done && said.contains("1 change of"), "{said}");
}
