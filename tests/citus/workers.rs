//! A worker that is killed: the users of its buckets get 503 while it is away, nobody else notices, and nothing
//! acknowledged is lost.

use crate::BUCKETS;
use crate::cluster::*;
use crate::readers::Readers;
use crate::support::*;
use crate::writers::{Writers, assert_stored};
use mana_dev::{Shutdown, citus};
use reqwest::StatusCode;
use std::time::{Duration, Instant};

/// How long the worker is down; CITUS_DOWN_SECONDS for longer.
fn down() -> Duration {
    let seconds = std::env::var("CITUS_DOWN_SECONDS").map_or(5, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

async fn a_killed_worker_costs_its_users_503_and_nobody_else_anything(straight: bool) {
    let mut citus = Citus::start().await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    let cluster = citus.replicas(3, straight).await;
    let users = users_of_all(&cluster, 3);
    let readers = Readers::start(&cluster, &users).await;
    let writers = Writers::start(&cluster, &users);
    let all: Vec<usize> = (0..usize::from(BUCKETS)).collect();
    writers.each(&all, true).await;

    let port = citus.port_of(0).await;
    let (gone, others) = citus.buckets_at(&port).await;
    citus::server_at(&mut citus.servers.workers, &port).unwrap().kill().await.unwrap();
    let killed = Instant::now();
    writers.each(&gone, false).await;
    while killed.elapsed() < down() {
        writers.each(&others, true).await;
        assert_eq!(cluster.get("/health/ready").await.status, StatusCode::OK);
    }
    let restarting = Instant::now();
    let server = citus::server_at(&mut citus.servers.workers, &port).unwrap();
    server.restart(Shutdown::Immediate).await.unwrap();
    let restarted = Instant::now();
    writers.each(&all, true).await;
    println!(
        "straight to the workers: {straight}; all users are served {:?} after the worker is back",
        restarted.elapsed()
    );

    let attempts = writers.attempts();
    let refused: Vec<_> = attempts.iter().filter(|attempt| !attempt.stored).collect();
    println!("{} of {} pushes were refused", refused.len(), attempts.len());
    assert!(refused.iter().all(|attempt| gone.contains(&attempt.bucket)), "nobody else was refused");
    let while_down =
        |a: &&crate::writers::Attempt| gone.contains(&a.bucket) && a.sent > killed && a.sent + a.took < restarting;
    assert!(attempts.iter().filter(while_down).all(|attempt| !attempt.stored), "there was nowhere to store them");
    let longest = attempts.iter().filter(|attempt| others.contains(&attempt.bucket)).map(|attempt| attempt.took).max();
    println!("the longest push of the others took {:?}", longest.unwrap());
    let written = writers.stop().await;
    assert_stored(&cluster, &written).await;
    readers.assert_read(&written).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_killed_worker_costs_its_users_503_through_the_coordinator() {
    a_killed_worker_costs_its_users_503_and_nobody_else_anything(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_killed_worker_costs_its_users_503_straight_to_the_workers() {
    a_killed_worker_costs_its_users_503_and_nobody_else_anything(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_replica_starts_while_a_worker_is_away() {
    let mut citus = Citus::start().await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    let mut cluster = citus.replicas(1, true).await;
    let users = users_of_all(&cluster, 1);
    cluster.nodes[0].process.kill().await;
    let port = citus.port_of(0).await;
    citus::server_at(&mut citus.servers.workers, &port).unwrap().kill().await.unwrap();
    cluster.nodes[0].restart().await;
    assert!(cluster.nodes[0].log().contains("its users cannot sync"), "{}", cluster.nodes[0].log());
    let body = |id| serde_json::json!({ "clientId": "phone", "changes": [insert("todos", id, "Milk", crate::AT)] });
    for user in &users {
        let expected = if citus.port_of(bucket_of(user)).await == port { 503 } else { 200 };
        assert_eq!(cluster.push(user, "todo", body("a")).await.0, expected);
    }
    citus::server_at(&mut citus.servers.workers, &port).unwrap().restart(Shutdown::Immediate).await.unwrap();
    for user in &users {
        eventually("all are served", async || cluster.push(user, "todo", body("b")).await.0 == StatusCode::OK).await;
    }
}

/// Its name and port are those of another cluster with the same buckets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_worker_of_another_cluster_is_not_used() {
    let (citus, other) = (Citus::start().await, Citus::start().await);
    for url in [&citus.url, &other.url] {
        distribute(url, &BUCKETS.to_string()).await;
    }
    let (ours, foreign) = (citus.worker_urls(), other.worker_urls());
    // In first place, where it would be used before it has been checked.
    let workers = format!("{} {ours}", foreign.split(' ').next().unwrap());
    let cluster = citus.replicas_with(1, &workers).await;
    let body = |id| serde_json::json!({ "clientId": "phone", "changes": [insert("todos", id, "Milk", crate::AT)] });
    let users = users_of_all(&cluster, 1);
    for user in &users {
        assert_eq!(cluster.push(user, "todo", body("a")).await.0, StatusCode::OK);
    }
    eventually("it is said", async || {
        cluster.nodes[0].log().contains("does not belong to the Citus cluster of DATABASE_URL")
    })
    .await;
    for url in ours.split(' ') {
        eventually("its own workers are used", async || {
            for user in &users {
                assert_eq!(cluster.push(user, "todo", body("b")).await.0, StatusCode::OK);
            }
            connected(url).await > 0
        })
        .await;
    }
    for url in foreign.split(' ') {
        assert_eq!(connected(url).await, 0);
    }
    assert_eq!(number(&other.url, "select count(*) from sync_changes").await, 0, "nothing was stored there");
    assert_eq!(number(&citus.url, "select count(*) from sync_changes").await, 2 * i64::from(BUCKETS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_worker_that_the_role_of_its_url_may_not_use_is_not_used() {
    let citus = Citus::start().await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    sql(&citus.url, "create role nobody login").await;
    let workers = citus.worker_urls().replace("postgres://postgres@", "postgres://nobody@");
    let cluster = citus.replicas_with(1, &workers).await;
    eventually("it is said", async || cluster.nodes[0].log().contains("the role of its URL lacks rights there")).await;
    let body = serde_json::json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", crate::AT)] });
    for user in &users_of_all(&cluster, 1) {
        assert_eq!(cluster.push(user, "todo", body.clone()).await.0, StatusCode::OK);
    }
}

/// As after a switchover to another address, with the old server still accepting pushes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_worker_that_was_replaced_is_not_used_any_more() {
    let mut citus = Citus::start().await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    let cluster = citus.replicas(1, true).await;
    let users = users_of_all(&cluster, 1);
    let body = |id| serde_json::json!({ "clientId": "phone", "changes": [insert("todos", id, "Milk", crate::AT)] });
    let port = citus.port_of(0).await;
    let url = citus.worker_urls().split(' ').find(|url| citus::port(url) == port).unwrap().to_owned();
    eventually("it is used", async || {
        for user in &users {
            assert_eq!(cluster.push(user, "todo", body("a")).await.0, StatusCode::OK);
        }
        connected(&url).await > 0
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let old = citus::server_at(&mut citus.servers.workers, &port).unwrap();
    let new = standby_of(old, folder.path(), citus::settings()).await;
    sql(&new.admin_url(), "select pg_promote()").await;
    let node = format!("(select nodeid from pg_dist_node where nodeport = {port})");
    sql(&citus.url, format!("select citus_update_node({node}, '127.0.0.1', {}, true)", new.port())).await;
    eventually("it is said", async || {
        cluster.nodes[0].log().contains("does not belong to the Citus cluster of DATABASE_URL")
    })
    .await;
    for user in &users {
        eventually("all are served", async || cluster.push(user, "todo", body("b")).await.0 == StatusCode::OK).await;
    }
    assert_eq!(connected(&url).await, 0);
    assert_eq!(number(&citus.url, "select count(*) from sync_changes").await, 2 * i64::from(BUCKETS));
}
