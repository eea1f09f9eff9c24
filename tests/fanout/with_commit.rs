//! Pushes in a quiet cluster, which notify in their own transaction.

use crate::overheard::*;
use crate::support::live::*;
use crate::support::*;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mana_sync::protocol::UserKey;
use serde_json::json;
use std::time::Duration;

/// Replicas do not reconcile unless they have a reason to: what arrives was notified.
const NO_ROUNDS: (&str, &str) = ("RECONCILE_MS", "3600000");
const NO_GREETING: (&str, &str) = ("ANNOUNCE_RECENT_MS", "0");
const TOLD: &str = "mana_sync_notifications_with_commit_total";

fn key(user: &User) -> String {
    URL_SAFE_NO_PAD.encode(UserKey::of(&user.id).0.as_bytes())
}

#[tokio::test]
async fn a_push_of_a_quiet_cluster_is_told_with_its_commit_and_leaves_no_gap() {
    let cluster = &Cluster::start_with(2, &[NO_ROUNDS, NO_GREETING]).await;
    let user = cluster.user();
    let mut phone = socket(cluster, 1, &user, None, Some("phone")).await;
    let mut laptop = socket(cluster, 1, &user, None, Some("laptop")).await;
    let mut listener = overhear(cluster).await;
    let (mut with_commit, mut by_publisher) = (0, 0);
    for n in 0..20 {
        // A new log and an existing one, one change and several, two replicas, awkward names.
        let table = format!("table \"{n}\"\\ ü");
        let records: Vec<(String, String)> = (0..=n % 3).map(|r| (table.clone(), format!("record {r}"))).collect();
        let records: Vec<(&str, &str)> = records.iter().map(|(t, r)| (t.as_str(), r.as_str())).collect();
        store(cluster, n % 2, &user, "phone", &records).await;
        assert_eq!(woken(&mut laptop).await, (APP.to_owned(), vec![table]));
        match said(&mut listener, &key(&user)).await.get(..2) {
            Some("m3") => with_commit += 1,
            _ => by_publisher += 1,
        }
    }
    // A machine that is busy with other tests may have slowed some down.
    assert!(with_commit > 0, "none of {by_publisher}");
    let told = metric(cluster, 0, TOLD).await + metric(cluster, 1, TOLD).await;
    assert_eq!(told, f64::from(with_commit));
    // A lookup finds nothing that has not been announced; and the device that stored everything was not woken.
    let hint = format!(r#"{{"v":1,"w":[["{}","{APP}",null,[],[]]]}}"#, key(&user));
    sqlx::query("select pg_notify('mana_sync', $1)").bind(hint).execute(&cluster.pool).await.unwrap();
    store(cluster, 0, &user, "tablet", &[("end", "a")]).await;
    assert_eq!(woken(&mut laptop).await.1, ["end"]);
    assert_eq!(woken(&mut phone).await.1, ["end"]);
}

#[tokio::test]
async fn a_push_that_is_sent_again_stores_and_tells_nothing_twice() {
    let cluster = &Cluster::start_with(1, &[NO_ROUNDS, NO_GREETING]).await;
    let user = cluster.user();
    let change = update("tasks", "a", "title", "x", "2026-01-01T00:00:00.000Z");
    let body = json!({ "clientId": "phone", "since": BEGINNING, "changes": [change] });
    for _ in 0..2 {
        let (status, answer) = cluster.push(&user, APP, body.clone()).await;
        assert_eq!(status, 200, "{answer}");
    }
    let stored: i64 = sqlx::query_scalar("select count(*) from sync_changes").fetch_one(&cluster.pool).await.unwrap();
    assert_eq!(stored, 1);
    assert!(metric(cluster, 0, TOLD).await <= 1.0);
}

#[tokio::test]
async fn a_full_queue_of_notifications_refuses_no_push() {
    let cluster = &mut Cluster::start_with(2, &[("RECONCILE_MS", "200"), NO_GREETING]).await;
    let user = cluster.user();
    let mut socket = socket(cluster, 1, &user, None, None).await;
    store(cluster, 0, &user, "phone", &[("before", "a")]).await;
    assert_eq!(woken(&mut socket).await.1, ["before"]);
    // The error that PostgreSQL raises at the end of a transaction. A short test cannot fill the real queue.
    let full = "create function public.pg_notify(text, text) returns void language plpgsql as
        $$ begin raise exception 'too many notifications in the NOTIFY queue' using errcode = '54000'; end $$";
    sqlx::query(full).execute(&cluster.pool).await.unwrap();
    let database = cluster.database_url.rsplit('/').next().unwrap().split('?').next().unwrap();
    let first = format!("alter database \"{database}\" set search_path = public, pg_catalog");
    sqlx::query(sqlx::AssertSqlSafe(first)).execute(&cluster.pool).await.unwrap();
    // New sessions will get the error.
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and application_name like 'mana-sync replica-%'";
    sqlx::query(end).execute(&cluster.pool).await.unwrap();
    eventually("the replicas are back", async || {
        let back = "select count(distinct application_name) from pg_stat_activity
            where datname = current_database() and application_name like 'mana-sync replica-% listen'";
        sqlx::query_scalar::<_, i64>(back).fetch_one(&cluster.pool).await.unwrap() == 2
    })
    .await;
    let told = metric(cluster, 0, TOLD).await;
    for n in 0..5 {
        let table = format!("full {n}");
        store(cluster, 0, &user, "phone", &[(&table, "a")]).await;
        let woken = woken_until(&mut socket, &table);
        soon(cluster, Duration::from_secs(5), "what could not be notified is found", woken).await;
    }
    assert_eq!(metric(cluster, 0, TOLD).await, told, "nothing was told");
    assert!(metric(cluster, 0, "mana_sync_publish_failures_total").await > 0.0);
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let cluster = &Cluster::start_with(1, &[NO_ROUNDS, NO_GREETING, ("COMMIT_NOTIFY_RATE", "0")]).await;
    let user = cluster.user();
    let mut socket = socket(cluster, 0, &user, None, None).await;
    let mut listener = overhear(cluster).await;
    store(cluster, 0, &user, "phone", &[("tasks", "a")]).await;
    assert_eq!(woken(&mut socket).await.1, ["tasks"]);
    assert!(said(&mut listener, &key(&user)).await.starts_with("m2"));
    assert_eq!(metric(cluster, 0, TOLD).await, 0.0);
}
