//! Replicas that do not know that logs are distributed: because they were cut off meanwhile, or because their program is
//! of a version that knows no buckets, or no Citus. `TEST_MANA_SYNC` names such a program.

use crate::BUCKETS;
use crate::cluster::*;
use crate::operators::{one, run};
use crate::support::live::*;
use crate::support::proxy::{Mode, Proxy};
use crate::support::*;
use mana_dev::citus;
use reqwest::StatusCode;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};

/// Sends a request; `None` if the replica does not respond.
async fn ask(request: reqwest::RequestBuilder) -> Option<(StatusCode, Value)> {
    let reply = request.timeout(TIMEOUT).send().await.ok()?;
    let status = reply.status();
    Some((status, reply.json().await.unwrap_or_default()))
}

/// Pushes, or reads, and returns the answer. `None` if there is none, or if the client is told to try again.
async fn served(request: reqwest::RequestBuilder) -> Option<Value> {
    let (status, answer) = ask(request).await?;
    assert!(matches!(status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE), "{status}: {answer}");
    Some(answer).filter(|_| status == StatusCode::OK)
}

/// Has every user push and read. Nothing may be acknowledged that is not stored where everybody looks, and no answer may
/// be half of it. Returns true if anybody was served.
async fn serves(cluster: &Cluster, users: &[User], id: &str) -> bool {
    let mut is_any = false;
    for user in users {
        let path = format!("/sync/{APP}");
        let push = cluster.request(user, reqwest::Method::POST, &path).header("Content-Type", "application/json");
        if let Some(said) = served(push.body(one(id).to_string())).await {
            let stored =
                format!("select count(*) from sync_b{:02}.sync_changes where record_id = '{id}'", bucket_of(user));
            assert_eq!(number(&cluster.database_url, stored).await, 1, "{said}");
            is_any = true;
        }
        let path = format!("/sync/{APP}/pull?collection=todos&since={BEGINNING}");
        if let Some(page) = served(cluster.request(user, reqwest::Method::GET, &path)).await {
            assert_eq!(ids(&page).len() as i64, cluster.stored(user).await, "{page}");
            is_any = true;
        }
        let path = format!("/sync/{APP}/stream?collections=todos&since={BEGINNING}");
        let stream = cluster.request(user, reqwest::Method::GET, &path).timeout(TIMEOUT).send().await;
        let status = stream.as_ref().map(reqwest::Response::status);
        assert!(matches!(status, Err(_) | Ok(StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE)), "{stream:?}");
    }
    is_any
}

/// The last of what the replica reported, apart from reports that all is well.
fn reasons(cluster: &Cluster) -> String {
    let log = cluster.nodes[0].log();
    let lines: Vec<_> = log.lines().filter(|line| !line.contains("\"INFO\"")).collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL with Citus: make test-citus"]
async fn a_replica_that_does_not_know_the_distribution_stores_nothing_elsewhere_and_says_why() {
    let url = create_database().await;
    let coordinator = citus::port(&url).parse().unwrap();
    let proxy = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, coordinator))).await;
    let settings = [("DATABASE_URL", proxy.url(&url)), ("READY_GRACE_MS", "0".to_owned())];
    let settings = settings.map(|(name, value)| (name.to_owned(), value));
    let mut cluster = Cluster::start_over_with(&url, 1, settings.into()).await;
    let users = users_of_all(&cluster, 1);
    for user in &users {
        cluster.pushed(user, APP, one("before")).await;
    }
    // The command sees nobody, and the replica nothing of what happens.
    proxy.set(Mode::Swallow);
    let connected = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and application_name like 'mana-sync %'";
    eventually("none is connected, and the logs are distributed", async || {
        number(&url, connected).await;
        let (success, said) = run(&url, &["distribute", "--buckets", &BUCKETS.to_string()]).await;
        assert!(success || said.contains("are connected"), "{said}");
        success
    })
    .await;
    proxy.set(Mode::Pass);
    proxy.cut_silent();
    proxy.cut();
    let ended = tokio::time::timeout(TIMEOUT, cluster.nodes[0].process.ended());
    let pushing = async {
        for n in 0.. {
            assert!(!serves(&cluster, &users, &format!("cut-{n}")).await, "it does not know where the logs are");
        }
    };
    let stopped = tokio::select! {
        ended = ended => ended.is_ok(),
        () = pushing => unreachable!(),
    };
    println!("it stopped: {stopped}; {}", reasons(&cluster));

    let own =
        "select (select count(*) from sync_changes_undistributed) + (select count(*) from sync_heads_undistributed)";
    assert_eq!(number(&url, own).await, 0, "nothing was stored where nobody looks");
    cluster.nodes[0].process.kill().await;
    let before = cluster.nodes[0].log().len();
    cluster.nodes[0].respawn();
    let refuses = || cluster.nodes[0].log()[before..].contains("start a newer version");
    eventually("it is ready, or says what it would have to know", async || {
        refuses()
            || ask(cluster.http.get(format!("{}/health/ready", cluster.url(0))))
                .await
                .is_some_and(|said| said.0.is_success())
    })
    .await;
    assert!(std::env::var_os(TEST_MANA_SYNC).is_some() || !refuses(), "this version knows all of it");
    assert_eq!(serves(&cluster, &users, "after").await, !refuses());
    let said = cluster.nodes[0].log()[before..].to_owned();
    println!("{}", if refuses() { said } else { "afterwards it serves".to_owned() });
    assert_eq!(number(&url, own).await, 0, "nothing was stored where nobody looks");
}
