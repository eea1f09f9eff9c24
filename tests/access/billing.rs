//! The billing gate, sentence by sentence of the protocol.

use crate::support::*;
use futures_util::future::join_all;
use mana_dev::{Mode, free_port};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::time::{Duration, Instant};

const AT: &str = "2024-01-01T10:05:00.000Z";
const PULL: &str = "/sync/todo/pull?collection=todos&since=1970-01-01T00:00:00.000Z";

async fn get(cluster: &Cluster, user: &User, path: &str) -> Reply {
    Reply::to(cluster.request(user, Method::GET, path)).await
}

async fn assert_let_through(cluster: &Cluster, user: &User) {
    let reply = get(cluster, user, PULL).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
}

#[tokio::test]
async fn whose_sync_is_not_active_gets_402_on_push_pull_and_stream_and_stores_nothing() {
    let cluster = shared().await;
    let user = cluster.user();
    cluster.credits.set_active(&user.id, false);
    let push = json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", AT)] });
    for replica in 0..3 {
        let (status, answer) = cluster.push_to(replica, &user, "todo", push.clone()).await;
        assert_eq!((status.as_u16(), &answer["error"]), (402, &json!("sync_inactive")), "{answer}");
    }
    for path in [PULL, "/sync/todo/stream", "/sync/todo/stream?collections=todos"] {
        get(cluster, &user, path).await.refused(402, "sync_inactive");
    }
    assert_eq!(cluster.stored(&user).await, 0);
    // Another user is not affected.
    assert_let_through(cluster, &cluster.user()).await;
}

#[tokio::test]
async fn the_service_is_asked_with_our_key_and_once_for_many_requests_of_a_user() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    join_all((0..30).map(|_| assert_let_through(&cluster, &user))).await;
    assert_let_through(&cluster, &user).await;
    // The service counts only requests with the right key.
    assert_eq!(cluster.credits.requests_of(&user.id), 1);
    assert_eq!(cluster.credits.requests(), 1);
    let inactive = cluster.user();
    cluster.credits.set_active(&inactive.id, false);
    for _ in 0..3 {
        get(&cluster, &inactive, PULL).await.refused(402, "sync_inactive");
    }
    assert_eq!(cluster.credits.requests_of(&inactive.id), 1);
}

#[tokio::test]
async fn an_answer_is_used_for_a_while_and_then_asked_for_again() {
    let cluster = Cluster::start_with(1, &[("BILLING_CACHE_MS", "300")]).await;
    let user = cluster.user();
    assert_let_through(&cluster, &user).await;
    cluster.credits.set_active(&user.id, false);
    eventually("no longer active", async || get(&cluster, &user, PULL).await.status == 402).await;
    cluster.credits.set_active(&user.id, true);
    eventually("active again", async || get(&cluster, &user, PULL).await.status == 200).await;
}

#[tokio::test]
async fn user_ids_are_encoded_so_that_they_are_one_part_of_the_path() {
    let cluster = shared().await;
    for id in ["a/b", "../../admin", "a b", "ü🍎", "a?b=c#d", "%2F", "a;b", "a\\b", ".a.."] {
        let id = format!("{id}{}", if id.len() > 2 { cluster.user().id } else { String::new() });
        let user = cluster.user_named(&id);
        assert_let_through(cluster, &user).await;
        assert!(cluster.credits.requests_of(&id) >= 1, "never asked about {id:?}");
    }
}

#[tokio::test]
async fn a_service_that_answers_nonsense_stops_nobody() {
    let cluster = Cluster::start_with(1, &[("BILLING_RETRY_MS", "10")]).await;
    for mode in [Mode::Error(500), Mode::Error(404), Mode::Error(403), Mode::Error(301), Mode::Garbage] {
        cluster.credits.set_mode(mode);
        for _ in 0..5 {
            let user = cluster.user();
            cluster.credits.set_active(&user.id, false);
            assert_let_through(&cluster, &user).await;
        }
    }
    assert!(cluster.credits.requests() > 0);
}

#[tokio::test]
async fn a_service_that_does_not_know_our_key_stops_nobody() {
    let cluster = Cluster::start_with(1, &[("MANA_SERVICE_KEY", "another-key")]).await;
    let user = cluster.user();
    cluster.credits.set_active(&user.id, false);
    assert_let_through(&cluster, &user).await;
    assert_eq!((cluster.credits.requests(), cluster.credits.requests_of(&user.id)), (1, 0));
}

#[tokio::test]
async fn a_service_that_is_not_there_stops_nobody() {
    let nowhere = format!("http://127.0.0.1:{}", free_port().unwrap());
    let settings = [("MANA_CREDITS_URL", nowhere.as_str()), ("BILLING_TIMEOUT_MS", "60000")];
    let cluster = Cluster::start_with(1, &settings).await;
    let users: Vec<User> = (0..20).map(|_| cluster.user()).collect();
    let began = Instant::now();
    join_all(users.iter().map(|user| assert_let_through(&cluster, user))).await;
    assert!(began.elapsed() < Duration::from_secs(30), "it is waited for: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_service_that_hangs_delays_the_first_few_requests_alone_and_is_left_alone() {
    let cluster = Cluster::start_with(1, &[("BILLING_TIMEOUT_MS", "2000"), ("BILLING_RETRY_MS", "300000")]).await;
    // Fetch the keys before the clock starts.
    assert_let_through(&cluster, &cluster.user()).await;
    let asked = cluster.credits.requests();
    cluster.credits.set_mode(Mode::Hang);
    let began = Instant::now();
    for _ in 0..200 {
        assert_let_through(&cluster, &cluster.user()).await;
    }
    // Three timeouts of two seconds and 197 requests that do not wait; if each waited, it would take 400.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(cluster.credits.requests() - asked, 3);
}

#[tokio::test]
async fn a_service_that_hangs_delays_many_users_at_once_by_no_more_than_one_time_out() {
    let cluster = Cluster::start_with(1, &[("BILLING_TIMEOUT_MS", "2000"), ("BILLING_RETRY_MS", "300000")]).await;
    assert_let_through(&cluster, &cluster.user()).await;
    cluster.credits.set_mode(Mode::Hang);
    let users: Vec<User> = (0..100).map(|_| cluster.user()).collect();
    let began = Instant::now();
    join_all(users.iter().map(|user| assert_let_through(&cluster, user))).await;
    // One after another, they would wait for 200 seconds.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_service_that_was_down_is_asked_again_later_and_its_answers_count_again() {
    let cluster = Cluster::start_with(1, &[("BILLING_RETRY_MS", "3000")]).await;
    cluster.credits.set_mode(Mode::Error(500));
    for _ in 0..10 {
        assert_let_through(&cluster, &cluster.user()).await;
    }
    let asked = cluster.credits.requests();
    assert!(asked < 10, "asked by every request");
    cluster.credits.set_mode(Mode::Serve);
    let user = cluster.user();
    cluster.credits.set_active(&user.id, false);
    eventually("its answer counts", async || get(&cluster, &user, PULL).await.status == 402).await;
    // Once the service is back, every user is asked about again.
    let other = cluster.user();
    cluster.credits.set_active(&other.id, false);
    get(&cluster, &other, PULL).await.refused(402, "sync_inactive");
}

#[tokio::test]
async fn a_user_whose_answer_is_known_notices_nothing_of_a_service_that_hangs() {
    let cluster = Cluster::start_with(1, &[("BILLING_TIMEOUT_MS", "60000")]).await;
    let (active, inactive) = (cluster.user(), cluster.user());
    cluster.credits.set_active(&inactive.id, false);
    assert_let_through(&cluster, &active).await;
    get(&cluster, &inactive, PULL).await.refused(402, "sync_inactive");
    cluster.credits.set_mode(Mode::Hang);
    let began = Instant::now();
    assert_let_through(&cluster, &active).await;
    get(&cluster, &inactive, PULL).await.refused(402, "sync_inactive");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
