//! Whatever a worker's URL leads to, and whenever that changes: pushes go only to servers of the cluster. Those that
//! another server accepts are lost to their users.

use crate::cluster::*;
use crate::support::proxy::Proxy;
use crate::support::*;
use crate::{AT, BUCKETS};
use mana_dev::citus;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};

fn body(id: &str) -> Value {
    json!({ "clientId": "phone", "changes": [insert("todos", id, "Milk", AT)] })
}

/// Two clusters with the same buckets in databases of the same name.
async fn two_alike() -> (Citus, Citus) {
    let citus = Citus::start().await;
    let other = citus.start_like().await;
    for url in [&citus.url, &other.url] {
        distribute(url, &BUCKETS.to_string()).await;
    }
    (citus, other)
}

/// Waits until replicas use a worker directly.
async fn used(cluster: &Cluster, users: &[User], worker: &str) {
    eventually("it is used", async || {
        for user in users {
            assert_eq!(cluster.push(user, "todo", body("a")).await.0, StatusCode::OK);
        }
        connected(worker).await > 0
    })
    .await;
}

fn address(ip: Ipv4Addr, port: &str) -> SocketAddr {
    (ip, port.parse().unwrap()).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn no_host_of_a_workers_url_is_used_without_proof() {
    let (mut citus, other) = two_alike().await;
    let (port, urls, foreign) = (citus.port_of(0).await, citus.worker_urls(), other.worker_urls());
    let foreign = foreign.split(' ').next().unwrap();
    let url = urls.split(' ').find(|url| citus::port(url) == port).unwrap();
    let second = format!("127.0.0.1:{port},127.0.0.1:{}", citus::port(foreign));
    let workers = urls.replace(&format!("127.0.0.1:{port}"), &second);
    let cluster = citus.replicas_with(1, &workers).await;
    let users = users_of_all(&cluster, 1);
    used(&cluster, &users, url).await;
    let kept = {
        let mut kept = Vec::new();
        for user in &users {
            kept.push(citus.port_of(bucket_of(user)).await != port);
        }
        kept
    };
    citus::server_at(&mut citus.servers.workers, &port).unwrap().kill().await.unwrap();
    for n in 0..20 {
        for (user, is_kept) in users.iter().zip(&kept) {
            let status = cluster.push(user, "todo", body(&format!("b{n}"))).await.0;
            assert_eq!(status, if *is_kept { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE });
        }
    }
    assert_eq!(number(&other.url, "select count(*) from sync_changes").await, 0, "nothing was stored there");
}

/// Its name and port stay, and Citus knows nothing about it: as if a replica's resolver were wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_server_that_takes_a_workers_place_is_not_used() {
    let (citus, other) = two_alike().await;
    let (port, urls, foreign) = (citus.port_of(0).await, citus.worker_urls(), other.worker_urls());
    let foreign = foreign.split(' ').next().unwrap();
    let url = urls.split(' ').find(|url| citus::port(url) == port).unwrap();
    let proxy = Proxy::start_at(address(Ipv4Addr::new(127, 0, 0, 2), &port), address(Ipv4Addr::LOCALHOST, &port)).await;
    let cluster = citus.replicas_with(1, &urls.replace(url, &format!("{url}?hostaddr=127.0.0.2"))).await;
    let users = users_of_all(&cluster, 1);
    used(&cluster, &users, url).await;
    let said = |line: &str| cluster.nodes[0].log().matches(line).count();
    // Whether or not its connections break.
    for round in 1..=2 {
        proxy.lead_to(address(Ipv4Addr::LOCALHOST, citus::port(foreign)));
        if round == 1 {
            proxy.cut();
        }
        for n in 0..20 {
            for user in &users {
                let id = format!("{round}-{n}");
                eventually("the coordinator forwards", async || {
                    cluster.push(user, "todo", body(&id)).await.0 == StatusCode::OK
                })
                .await;
            }
        }
        eventually("it is noticed", async || said("leads to another server than before") == round).await;
        eventually("it is said", async || said("does not belong to the Citus cluster") == round).await;
        eventually("it is left", async || connected(url).await == 0).await;
        proxy.lead_to(address(Ipv4Addr::LOCALHOST, &port));
        used(&cluster, &users, url).await;
    }
    assert_eq!(number(&other.url, "select count(*) from sync_changes").await, 0, "nothing was stored there");
    assert_eq!(connected(foreign).await, 0);
    assert_eq!(number(&citus.url, "select count(*) from sync_changes").await, 41 * i64::from(BUCKETS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn workers_may_be_listed_twice_in_any_order_before_they_are_added_and_by_ipv6() {
    let citus = Citus::start().await;
    let urls = citus.worker_urls();
    let (first, second) = urls.split_once(' ').unwrap();
    let (port, second_port) = (citus::port(first), citus::port(second));
    sql(&citus.url, format!("select citus_remove_node('127.0.0.1', {second_port})")).await;
    distribute(&citus.url, &BUCKETS.to_string()).await;
    let later = second.replace("127.0.0.1", "[::1]");
    let cluster = citus.replicas_with(1, &format!("{later} {first} {later} {first}")).await;
    let users = users_of_all(&cluster, 1);
    used(&cluster, &users, first).await;
    assert_eq!(connected(second).await, 0, "it does not belong to the cluster yet");
    eventually("it is said", async || cluster.nodes[0].log().contains("does not belong to the Citus cluster")).await;
    sql(&citus.url, format!("select citus_add_node('::1', {second_port})")).await;
    move_bucket(&citus.url, 0, ("::1", second_port)).await;
    used(&cluster, &users, second).await;
    assert_eq!((citus.port_of(0).await, citus.port_of(1).await), (second_port.to_owned(), port.to_owned()));
    assert!(!cluster.nodes[0].log().contains("not in DATABASE_WORKER_URLS"), "{}", cluster.nodes[0].log());
    assert_eq!(number(&citus.url, "select count(*) from sync_changes").await, i64::from(BUCKETS));
}
