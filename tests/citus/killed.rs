//! A distribution over a Citus cluster that is killed after any of its statements, also of those with which Citus
//! distributes the buckets, is finished by the next one. At each moment everything is there once, and a replica that is
//! started meanwhile stores nothing.

use crate::BUCKETS;
use crate::cluster::*;
use crate::operators::{one, run, succeeded};
use crate::support::cut::Cut;
use crate::support::live::APP;
use crate::support::*;
use reqwest::StatusCode;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// How many more statements than the one before each run may send; CRASH_STEP=1 for all.
const STEP: i64 = 30;
/// The same once there are all buckets.
const LATE_STEP: i64 = 3;
/// More statements than a distribution takes.
const STATEMENTS: i64 = 2_000;

/// Everything that is stored, read as a program does.
async fn contents(url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let mut all = Vec::new();
    for rows in [
        "select concat_ws(' ', 'head', log_id, head, stored_changes) from sync_heads",
        "select concat_ws(' ', 'change', id, log_id, created_at, data, field_timestamps) from sync_changes",
        "select concat_ws(' ', 'trimmed', id, log_id, trimmed_at, data) from sync_history",
        "select concat_ws(' ', 'erased', log_id, head) from sync_erased",
    ] {
        all.extend(sqlx::query_scalar::<_, String>(AssertSqlSafe(rows)).fetch_all(&mut connection).await.unwrap());
    }
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn after_any_of_its_statements_everything_is_there_once_and_it_goes_on() {
    let url = create_database().await;
    succeeded(&url, &["migrate"]).await;
    let mut cluster = Cluster::start_over(&url).await;
    let users = users_of_all(&cluster, 2);
    for user in &users {
        cluster.pushed(user, APP, one("a")).await;
        let later = update("todos", "a", "title", "Eggs", "2024-01-02T10:05:00.000Z");
        cluster.pushed(user, APP, json!({ "clientId": "phone", "changes": [later] })).await;
    }
    succeeded(&url, &["compact", "--compact-after-ms", "1"]).await;
    succeeded(&url, &["erase", "--user", &users[0].id, "--yes"]).await;
    cluster.nodes[0].process.kill().await;
    let before = contents(&url).await;
    assert_eq!(before.len(), 7 + 14 + 7 + 1, "{before:?}");
    let step = std::env::var("CRASH_STEP").map_or(STEP, |step| step.parse().unwrap());
    let (mut killed, mut spread, mut is_waiting) = (0, 0, false);
    let (mut statements, mut was_late) = (rand::random_range(1..=step), false);
    while statements < STATEMENTS {
        let cut = Cut::after(&url, statements).await;
        let (success, said) = run(cut.url(), &["distribute", "--buckets", &BUCKETS.to_string()]).await;
        drop(cut);
        let open = "select count(*) from pg_stat_activity where datname = current_database()
            and application_name in ('mana-sync distribute', 'mana-sync migrate')";
        eventually("its sessions have ended", async || number(&url, open).await == 0).await;
        assert_eq!(contents(&url).await, before, "after {statements} statements");
        if number(&url, "select count(*) from sync_layout where is_moving").await == 1 {
            if !std::mem::replace(&mut is_waiting, true) {
                cluster.nodes[0].respawn();
            }
            for user in &users {
                let push = cluster.request(user, reqwest::Method::POST, &format!("/sync/{APP}")).timeout(TIMEOUT);
                let body = one("lost").to_string();
                let reply = push.header("Content-Type", "application/json").body(body).send().await;
                // Its port may not be open yet.
                assert!(reply.is_err() || reply.unwrap().status() == StatusCode::SERVICE_UNAVAILABLE);
            }
        }
        if !success {
            let done = number(&url, "select count(*) from citus_schemas").await;
            println!("killed after {statements} statements, with {done} buckets distributed by Citus");
            killed += 1;
            spread += i64::from(done > 0);
            // Those with which logs are moved, and Citus distributes the buckets, are the last, and few.
            // What is done already is not done again, so it begins anew with few statements.
            let is_late = number(&url, "select count(*) from pg_namespace where nspname = 'sync_b03'").await == 1;
            statements = match (is_late, std::mem::replace(&mut was_late, is_late)) {
                (true, false) => rand::random_range(1..=LATE_STEP),
                (true, true) => statements + LATE_STEP.min(step),
                (false, _) => statements + step,
            };
            continue;
        }
        println!("{killed} were killed, {spread} of them while Citus distributed the buckets; {said}");
        assert!(killed > 1 && spread > 1 && is_waiting);
        assert_eq!(number(&url, "select count(*) from citus_schemas").await, i64::from(BUCKETS));
        cluster.nodes[0].process.wait_ready(TIMEOUT).await.unwrap();
        for user in &users {
            cluster.pushed(user, APP, one("b")).await;
        }
        let page = cluster.pulled(&users[1], APP, "todos", BEGINNING, None).await;
        assert_eq!(ids(&page), ["a", "a", "b"]);
        return;
    }
    panic!("a distribution has more than {STATEMENTS} statements");
}
