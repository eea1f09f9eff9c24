//! Readers that poll without a pause: empty answers are delayed, and nothing else is.

use crate::support::live::{NO_DELTA, metric, store};
use crate::support::*;
use futures_util::future::join_all;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_reader_that_polls_without_a_pause_is_answered_a_few_times_a_second() {
    let cluster = shared().await;
    let user = cluster.user();
    let since = store(cluster, 0, &user, "laptop", &[("tasks", "a")]).await;
    let begun = Instant::now();
    let mut answers = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        let answer = cluster.pulled(&user, "todo", "tasks", &since, Some("tab")).await;
        assert_eq!(ids(&answer), [""; 0]);
        answers += 1;
    }
    assert!((4..60).contains(&answers), "{answers} answers in three seconds");
    assert!(metric(cluster, 0, "mana_sync_empty_answers_held_total").await >= 1.0);
}

#[tokio::test]
async fn what_is_stored_meanwhile_is_answered_at_once() {
    let cluster = shared().await;
    let user = cluster.user();
    let mut since = store(cluster, 0, &user, "laptop", &[("tasks", "first")]).await;
    for round in 0..5 {
        // From here on, every answer with nothing new is delayed.
        loop {
            let asked = Instant::now();
            cluster.pulled(&user, "todo", "tasks", &since, Some("tab")).await;
            if asked.elapsed() > Duration::from_millis(500) {
                break;
            }
        }
        let id = format!("round-{round}");
        let poll = async {
            loop {
                let answer = cluster.pulled(&user, "todo", "tasks", &since, Some("tab")).await;
                if !ids(&answer).is_empty() {
                    return (answer, Instant::now());
                }
            }
        };
        let push = async {
            // Through another replica.
            store(cluster, 1, &user, "laptop", &[("tasks", &id)]).await;
            Instant::now()
        };
        let ((answer, told), stored) = futures_util::future::join(poll, push).await;
        assert_eq!(ids(&answer), [id.as_str()]);
        let late = told.saturating_duration_since(stored);
        assert!(late < Duration::from_millis(800), "told {late:?} after it was stored");
        since = until(&answer).to_owned();
    }
}

#[tokio::test]
async fn a_device_that_comes_back_and_asks_for_all_its_tables_is_not_held_up() {
    let cluster = shared().await;
    let user = cluster.user();
    let since = store(cluster, 0, &user, "laptop", &[("tasks", "a")]).await;
    let begun = Instant::now();
    let tables: Vec<String> = (0..40).map(|n| format!("table-{n}")).collect();
    for _ in 0..2 {
        join_all(tables.iter().map(|table| cluster.pulled(&user, "todo", table, &since, Some("tab")))).await;
    }
    let asked = Instant::now();
    cluster.pulled(&user, "todo", "table-0", &since, Some("tab")).await;
    assert!(asked.elapsed() < Duration::from_millis(900), "and once more");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let empty = json!({ "clientId": "tab", "since": NO_DELTA });
    for _ in 0..4 {
        let asked = Instant::now();
        cluster.pushed(&user, "todo", empty.clone()).await;
        assert!(asked.elapsed() < Duration::from_millis(900), "a push without changes, now and then");
    }
}

#[tokio::test]
async fn held_answers_take_no_connection_of_the_pool_and_no_memory() {
    let cluster = Cluster::start_with(1, &[("DATABASE_POOL_SIZE", "2")]).await;
    let (user, other) = (cluster.user(), cluster.user());
    let since = store(&cluster, 0, &user, "laptop", &[("tasks", "a")]).await;
    let pollers = async {
        let poll = async |n: usize| {
            for _ in 0..30 {
                cluster.pulled(&user, "todo", "tasks", &since, Some(&format!("tab-{n}"))).await;
            }
        };
        join_all((0..6).map(poll)).await;
    };
    let others = async {
        let mut slowest = Duration::ZERO;
        for n in 0..30 {
            let asked = Instant::now();
            store(&cluster, 0, &other, "phone", &[("tasks", &n.to_string())]).await;
            slowest = slowest.max(asked.elapsed());
        }
        slowest
    };
    let ((), slowest) = futures_util::future::join(pollers, others).await;
    assert!(metric(&cluster, 0, "mana_sync_empty_answers_held_total").await >= 6.0);
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    eventually("nothing is held", async || metric(&cluster, 0, "mana_sync_stream_bytes").await == 0.0).await;
}
