//! Rebalancing after replicas were added: connections are closed a few at a time, each device once, and no more than
//! needed, until all replicas hold about the same number.

use crate::support::live::*;
use crate::support::*;
use mana_load::wakeups::WakeMessage;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SOCKETS: usize = 240;
const STREAMS: usize = 60;
/// Clients have a third of this time to return before a replica considers them gone: longer than a busy machine delays
/// them.
const WINDOW: Duration = Duration::from_millis(6_000);
/// A wave takes a window or two. If its clients return too slowly, on a busy machine, it gives up, and the next one
/// begins ten windows later.
const WAVE: Duration = Duration::from_secs(180);
const SETTINGS: [(&str, &str); 4] =
    [("REBALANCE_MS", "6000"), ("PRESENCE_MS", "100"), ("DATABASE_POOL_SIZE", "8"), ("ANNOUNCE_RECENT_MS", "0")];

/// Devices that reconnect at once, to replicas in turn.
struct Clients {
    urls: std::sync::Mutex<Vec<String>>,
    turn: AtomicUsize,
    /// The number of times each device was closed.
    closes: Vec<AtomicUsize>,
    stop: CancellationToken,
}

impl Clients {
    fn next_url(&self) -> String {
        let urls = self.urls.lock().unwrap();
        urls[self.turn.fetch_add(1, Ordering::Relaxed) % urls.len()].clone()
    }

    /// Keeps a device connected by a WebSocket.
    async fn keep_socket(&self, device: usize, user: &User) {
        loop {
            let mut socket =
                mana_load::wakeups::Wakeups::connect(&self.next_url(), Some(APP), &user.token, None).await.unwrap();
            let Some(message) = self.stop.run_until_cancelled(socket.next(Duration::from_secs(3_600))).await else {
                return;
            };
            match message.unwrap() {
                WakeMessage::Closed { code, .. } => assert_eq!(code, Some(1012)),
                other => panic!("nobody pushes: {other:?}"),
            }
            self.closes[device].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps a device connected by a stream.
    async fn keep_stream(&self, device: usize, cluster: &Cluster, user: &User) {
        loop {
            let url = format!("{}/sync/{APP}/stream?collections=tasks", self.next_url());
            let request = cluster.http.get(url).bearer_auth(&user.token);
            let mut stream = Events::open(request).await;
            let ended = async { while stream.next().await.is_some() {} };
            if self.stop.run_until_cancelled(ended).await.is_none() {
                return;
            }
            assert!(stream.text.ends_with("retry: 1000\n\n"), "{}", stream.text);
            self.closes[device].fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn held(cluster: &Cluster) -> Vec<f64> {
    let mut held = Vec::new();
    for index in 0..cluster.nodes.len() {
        held.push(metric(cluster, index, "mana_sync_connections_total").await);
    }
    held
}

#[tokio::test]
async fn six_replicas_share_what_three_held_and_no_device_is_closed_twice() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start_with(6, &SETTINGS).await));
    // All replicas exist from the start, but the balancer does not know half of them yet: they are like added ones,
    // except that the frozen ones are silent.
    for node in &cluster.nodes[3..] {
        node.process.pause();
    }
    let three = async || metric(cluster, 0, "mana_sync_replicas").await == 3.0;
    eventually("three are there", three).await;
    let clients = Arc::new(Clients {
        urls: cluster.urls()[..3].to_vec().into(),
        turn: AtomicUsize::new(0),
        closes: (0..SOCKETS + STREAMS).map(|_| AtomicUsize::new(0)).collect(),
        stop: CancellationToken::new(),
    });
    let (tracker, users) = (TaskTracker::new(), (0..30).map(|_| cluster.user()).collect::<Vec<_>>());
    for device in 0..SOCKETS + STREAMS {
        let (clients, user) = (clients.clone(), users[device % users.len()].clone());
        tracker.spawn(async move {
            match device < SOCKETS {
                true => clients.keep_socket(device, &user).await,
                false => clients.keep_stream(device, cluster, &user).await,
            }
        });
    }
    let connected = async || {
        let mut sum = 0.0;
        for index in 0..3 {
            sum += metric(cluster, index, "mana_sync_connections_total").await;
        }
        sum == (SOCKETS + STREAMS) as f64
    };
    eventually("all are connected", connected).await;
    // Old enough to be closed; but none is, as the replicas are even.
    tokio::time::sleep(WINDOW * 3).await;
    assert!(clients.closes.iter().all(|closes| closes.load(Ordering::Relaxed) == 0));

    clients.urls.lock().unwrap().extend(cluster.urls()[3..].to_vec());
    cluster.nodes[3..].iter().for_each(|node| node.process.resume());
    let begun = Instant::now();
    let mean = (SOCKETS + STREAMS) as f64 / 6.0;
    let is_even = async || held(cluster).await.iter().all(|held| (held - mean).abs() <= mean / 10.0);
    let even = mana_dev::wait::until(WAVE, async || is_even().await.then_some(())).await;
    assert!(even.is_some(), "each within a tenth of the mean: {:?}", held(cluster).await);
    println!("even after {:?}: {:?}", begun.elapsed(), held(cluster).await);
    // Wait for ongoing work to end: until nothing has changed for a whole window.
    let total = || clients.closes.iter().map(|closes| closes.load(Ordering::Relaxed)).sum::<usize>();
    let mut before = usize::MAX;
    while total() != before {
        before = total();
        tokio::time::sleep(WINDOW).await;
    }
    assert!(is_even().await, "{:?}", held(cluster).await);
    assert!(clients.closes.iter().all(|closes| closes.load(Ordering::Relaxed) <= 1), "nobody was closed twice");
    let closed = (0..6).map(async |index| {
        metric(cluster, index, "mana_sync_session_closes_total{reason=\"rebalanced\"}").await as usize
    });
    assert_eq!(futures_util::future::join_all(closed).await.into_iter().sum::<usize>(), total());
    clients.stop.cancel();
    tracker.close();
    timeout(TIMEOUT, tracker.wait()).await.expect("they end");
}
