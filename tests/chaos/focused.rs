//! One fault each, and exactly what is promised for it.

use crate::cluster::{FaultyCluster, REPLICAS};
use crate::run::{Play, settle};
use crate::suite::{alone, beside_others};
use crate::support::proxy::Mode;
use crate::support::*;
use crate::{checks, epilogue};
use mana_dev::{Mode as Service, Shutdown};
use mana_load::wakeups::{WakeMessage, WakeupError, Wakeups};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite;

/// Maximum time after the database's return until everything must work again.
const BACK: Duration = Duration::from_secs(3);
/// How long a client tries to reconnect.
const COMING_BACK: Duration = Duration::from_secs(60);
/// Number of clients per user in the rush.
const OF_ONE_USER: usize = 10;
/// Maximum memory that a replica may keep after clients have left, in bytes.
const KEPT: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_all_listening_connections_swallowed_for_good_everybody_is_told_in_time_of_every_change() {
    let _beside = beside_others().await;
    let play = Play::start(FaultyCluster::start(&[]).await, 1, 2, 0).await;
    play.cluster.doors.iter().for_each(|doors| doors.listen.set(Mode::Swallow));
    let mut slowest = Duration::ZERO;
    for n in 0..4 {
        let told = epilogue::tell(&play.cluster, &play.workload, n % 2).await;
        slowest = slowest.max(told.unwrap_or_default());
    }
    println!("without a listener, the slowest of 4 changes was told after {slowest:?}");
    assert_eq!(play.end().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_did_not_live_to_tell_the_others_find_in_time() {
    let _beside = beside_others().await;
    let play = Play::start(FaultyCluster::start(&[]).await, 1, 2, 0).await;
    let cluster = &play.cluster;
    let user = &play.workload.parties[0].user;
    let mut sockets = Vec::new();
    for replica in 1..REPLICAS {
        sockets.push(Wakeups::connect(&cluster.urls()[replica], None, &user.token, None).await.unwrap());
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..4 {
        let pushed = Instant::now();
        play.workload.push_and_crash(cluster, 0).await;
        for socket in &mut sockets {
            let message =
                soon(&cluster.inner, epilogue::SOON, "the others find it", socket.next(TIMEOUT)).await.unwrap();
            assert!(matches!(message, WakeMessage::SyncAvailable { .. }), "{message:?}");
        }
        slowest = slowest.max(pushed.elapsed());
        assert!(cluster.revive(0).await);
        cluster.node(0).await.process.wait_ready(TIMEOUT).await.unwrap();
    }
    println!("of 4 pushes whose replica died before it told, the slowest was told after {slowest:?}");
    drop(sockets);
    assert_eq!(play.end().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_fast_restart_of_postgresql_all_works_again_soon_and_no_client_had_to_reconnect() {
    let _beside = beside_others().await;
    let play = Play::start(FaultyCluster::start(&[]).await, 1, 2, 4).await;
    let cluster = &play.cluster;
    let all_connected =
        async || play.workload.readers().iter().all(|reader| !reader.is_told() || reader.connects() == 1);
    eventually("everybody is connected", all_connected).await;
    let user = cluster.inner.user();
    for round in 0..3 {
        cluster.restart_postgres(Shutdown::Fast).await;
        let back = Instant::now();
        for (replica, url) in cluster.urls().iter().enumerate() {
            let body = serde_json::json!({
                "clientId": "prober", "since": live::NO_DELTA,
                "changes": [insert("tasks", &format!("{round}-{replica}"), "T", "2024-01-01T10:00:00.000Z")],
            });
            let push = async || {
                let request = cluster.inner.http.post(format!("{url}/sync/todo")).bearer_auth(&user.token);
                let request = request.header("Content-Type", "application/json").timeout(BACK);
                request.body(body.to_string()).send().await.is_ok_and(|answer| answer.status() == 200)
            };
            eventually("pushes are stored again", push).await;
            assert_soon(&cluster.inner, BACK, &format!("pushes to replica {replica}"), back.elapsed()).await;
        }
        let listening = async || {
            let mut up = 0.0;
            for replica in 0..REPLICAS {
                up += cluster.metric(replica, "mana_sync_listener_up").await.unwrap_or(0.0);
            }
            up == REPLICAS as f64
        };
        eventually("all listen again", listening).await;
        assert_soon(&cluster.inner, BACK, "listeners", back.elapsed()).await;
        println!("all worked {:?} after the return of the database", back.elapsed());
    }
    for reader in play.workload.readers().iter().filter(|reader| reader.is_told()) {
        assert_eq!(reader.connects(), 1, "{} had to reconnect", reader.name);
    }
    settle(&play).await;
    assert_eq!(play.end().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_connections_that_the_network_has_forgotten_are_given_up() {
    let _beside = beside_others().await;
    let play = Play::start(FaultyCluster::start(&[]).await, 1, 2, 4).await;
    let all_connected =
        async || play.workload.readers().iter().all(|reader| !reader.is_told() || reader.connects() == 1);
    eventually("everybody is connected", all_connected).await;
    let query = &play.cluster.doors[0].query;
    query.set(Mode::Swallow);
    tokio::time::sleep(Duration::from_secs(2)).await;
    query.set(Mode::Pass);
    let back = Instant::now();
    let user = play.cluster.inner.user();
    let pull = async || {
        let path = format!("{}/sync/todo/pull?collection=a&since={BEGINNING}", play.cluster.urls()[0]);
        let request = play.cluster.inner.http.get(path).bearer_auth(&user.token).timeout(TIMEOUT);
        request.send().await.is_ok_and(|answer| answer.status() == 200)
    };
    eventually("the replica reads again", pull).await;
    println!("the replica read again after {:?}", back.elapsed());
    assert_soon(&play.cluster.inner, epilogue::SOON, "reads", back.elapsed()).await;
    settle(&play).await;
    assert_eq!(play.end().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_started_while_the_issuer_was_down_lets_people_in_soon_after_its_return() {
    let _beside = beside_others().await;
    let cluster = FaultyCluster::start(&[]).await;
    let user = cluster.inner.user();
    let status = async || {
        let path = format!("{}/sync/todo/pull?collection=a&since={BEGINNING}", cluster.urls()[0]);
        let answer = cluster.inner.http.get(path).bearer_auth(&user.token).timeout(BACK).send().await;
        answer.map(|answer| answer.status().as_u16()).unwrap_or_default()
    };
    cluster.inner.issuer.set_mode(Service::Error(500));
    cluster.kill(0).await;
    assert!(cluster.revive(0).await);
    assert_eq!(status().await, 503);
    cluster.inner.issuer.set_mode(Service::Serve);
    let back = Instant::now();
    eventually("the replica lets people in", async || status().await == 200).await;
    assert_soon(&cluster.inner, BACK, "people", back.elapsed()).await;
}

/// Reconnects, however often it is refused, provided that each refusal says when to retry. Returns the number of
/// refusals.
async fn come_back(base: &str, user: &User) -> Result<(Wakeups, usize), String> {
    let begin = Instant::now();
    for refusals in 0.. {
        let error = match Wakeups::connect(base, None, &user.token, None).await {
            Ok(socket) => return Ok((socket, refusals)),
            Err(error) => error,
        };
        if let WakeupError::Socket(broken) = &error
            && let tungstenite::Error::Http(refusal) = &**broken
            && !refusal.headers().contains_key("retry-after")
        {
            return Err(format!("refused with {} and without a word on when to try again", refusal.status()));
        }
        if begin.elapsed() > COMING_BACK {
            return Err(format!("refused {refusals} times, at last: {error:?}"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    unreachable!("the attempts end by a connection or by the deadline")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_all_come_back_at_once_are_all_served() {
    all_come_back(1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make chaos"]
async fn five_thousand_clients_that_come_back_at_once_are_all_served() {
    all_come_back(5_000).await;
}

async fn all_come_back(clients: usize) {
    let _alone = alone().await;
    let cluster = Arc::new(FaultyCluster::start(&[]).await);
    let users: Vec<User> = (0..clients / OF_ONE_USER).map(|_| cluster.inner.user()).collect();
    let mut memory = Vec::new();
    for _ in 0..2 {
        memory = Vec::new();
        let begin = Instant::now();
        let mut coming = JoinSet::new();
        for client in 0..clients {
            let (base, user) = (cluster.urls()[client % REPLICAS].clone(), users[client / OF_ONE_USER].clone());
            coming.spawn(
                async move { come_back(&base, &user).await.map(|(socket, refusals)| (client, socket, refusals)) },
            );
        }
        let arrived: Result<Vec<_>, String> = coming.join_all().await.into_iter().collect();
        let mut arrived = arrived.unwrap();
        arrived.sort_by_key(|(client, _, _)| *client);
        let refusals: usize = arrived.iter().map(|(_, _, refusals)| refusals).sum();
        println!("{clients} clients were served within {:?}, after {refusals} refusals", begin.elapsed());
        for client in [0, clients / 2, clients - 1] {
            let user = &users[client / OF_ONE_USER];
            let record = insert("tasks", "a", "T", "2024-01-01T10:00:00.000Z");
            let body = serde_json::json!({ "clientId": "x", "since": live::NO_DELTA, "changes": [record] });
            let request = cluster.inner.http.post(format!("{}/sync/app-{client}", cluster.urls()[0]));
            let request = request.bearer_auth(&user.token).header("Content-Type", "application/json");
            assert_eq!(request.body(body.to_string()).send().await.unwrap().status(), 200);
            let told = arrived[client].1.next(TIMEOUT);
            let message = soon(&cluster.inner, epilogue::SOON, "it is told", told).await.unwrap();
            assert!(matches!(message, WakeMessage::SyncAvailable { .. }), "{message:?}");
        }
        drop(arrived);
        checks::sessions_are_gone(&cluster).await.unwrap();
        for replica in 0..REPLICAS {
            memory.push(cluster.memory(replica).await);
        }
    }
    println!("afterwards the replicas have {memory:?} bytes resident");
    // A debug build that has served nobody takes about 40 MiB.
    assert!(memory.iter().all(|bytes| *bytes < (40 << 20) + KEPT), "{memory:?}");
}
