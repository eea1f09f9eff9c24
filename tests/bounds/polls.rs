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

/// The number of answers that replica 0 has held back.
async fn held(cluster: &Cluster) -> f64 {
    metric(cluster, 0, "mana_sync_empty_answers_held_total").await
}

#[tokio::test]
async fn what_is_stored_meanwhile_is_answered_at_once() {
    /// Without a wake-up, each is answered when it has been held for a second.
    const AT_ONCE: Duration = Duration::from_millis(500);
    let cluster = Cluster::start(2).await;
    let user = cluster.user();
    let mut since = store(&cluster, 0, &user, "laptop", &[("tasks", "first")]).await;
    let mut late = Vec::new();
    // A busy machine may delay some of them.
    while late.iter().filter(|late| **late < AT_ONCE).count() < 3 {
        assert!(late.len() < 20, "told so long after it was stored: {late:?}");
        // From here on, every answer with nothing new is delayed.
        let before = held(&cluster).await;
        eventually("answers are held back", async || {
            join_all((0..10).map(|_| cluster.pulled(&user, "todo", "tasks", &since, Some("tab")))).await;
            held(&cluster).await > before
        })
        .await;
        let id = format!("round-{}", late.len());
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
            store(&cluster, 1, &user, "laptop", &[("tasks", &id)]).await;
            Instant::now()
        };
        let ((answer, told), stored) = futures_util::future::join(poll, push).await;
        assert_eq!(ids(&answer), [id.as_str()]);
        late.push(told.saturating_duration_since(stored));
        since = until(&answer).to_owned();
    }
}

#[tokio::test]
async fn a_device_that_comes_back_and_asks_for_all_its_tables_is_not_held_up() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    let since = store(&cluster, 0, &user, "laptop", &[("tasks", "a")]).await;
    let tables: Vec<String> = (0..40).map(|n| format!("table-{n}")).collect();
    for _ in 0..2 {
        join_all(tables.iter().map(|table| cluster.pulled(&user, "todo", table, &since, Some("tab")))).await;
    }
    cluster.pulled(&user, "todo", "table-0", &since, Some("tab")).await;
    let empty = json!({ "clientId": "tab", "since": NO_DELTA });
    for _ in 0..4 {
        cluster.pushed(&user, "todo", empty.clone()).await;
    }
    assert_eq!(held(&cluster).await, 0.0, "not even once more, nor a push without changes, now and then");
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
    assert!(held(&cluster).await >= 6.0);
    assert_soon(&cluster, Duration::from_secs(3), "a push of somebody else", slowest).await;
    eventually("nothing is held", async || metric(&cluster, 0, "mana_sync_stream_bytes").await == 0.0).await;
}
