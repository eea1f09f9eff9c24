//! Small queries to one replica, and a few devices that retry each push until it is acknowledged: for tests that break
//! the foundations of a whole [`crate::cluster::FaultyCluster`].

use crate::support::live::{Events, NO_DELTA, stream_of};
use crate::support::*;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Maximum time of one attempt before the device retries.
const ATTEMPT: Duration = Duration::from_secs(4);
/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);
/// Pause after a push, and after one that failed.
const PAUSE: Duration = Duration::from_millis(20);

/// A push of one record.
pub fn push(cluster: &Cluster, replica: usize, user: &User, id: &str) -> reqwest::RequestBuilder {
    let record = insert("tasks", id, "T", "2024-01-01T10:00:00.000Z");
    let body = json!({ "clientId": format!("device-of-{id}"), "since": NO_DELTA, "changes": [record] });
    let request = cluster.request_to(replica, user, Method::POST, &format!("/sync/{}", live::APP));
    request.header("Content-Type", "application/json").body(body.to_string())
}

/// Pushes one record; `None` if there is no response in time.
async fn try_push(cluster: &Cluster, replica: usize, user: &User, id: &str) -> Option<reqwest::Response> {
    push(cluster, replica, user, id).timeout(ATTEMPT).send().await.ok()
}

pub async fn pushes(cluster: &Cluster, replica: usize, user: &User, id: &str) -> bool {
    try_push(cluster, replica, user, id).await.is_some_and(|answer| answer.status() == 200)
}

/// Devices of one user that push all the time, each to another replica, and retry what was not acknowledged. A refusal
/// that does not say when to retry fails the test.
#[derive(Debug)]
pub struct Pushing {
    stop: CancellationToken,
    devices: JoinSet<BTreeSet<String>>,
}

impl Pushing {
    pub fn start(cluster: &Arc<Cluster>, user: &User, devices: usize) -> Pushing {
        let stop = CancellationToken::new();
        let one = |number| push_on(cluster.clone(), user.clone(), number, stop.clone());
        Pushing { devices: (0..devices).map(one).collect(), stop }
    }

    /// Waits until the last pushes are acknowledged. Returns the ids of all that were.
    pub async fn end(mut self) -> BTreeSet<String> {
        self.stop.cancel();
        let mut all = BTreeSet::new();
        while let Some(acknowledged) = self.devices.join_next().await {
            all.extend(acknowledged.unwrap());
        }
        all
    }
}

async fn push_on(cluster: Arc<Cluster>, user: User, number: usize, stop: CancellationToken) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for n in 0.. {
        let id = format!("{number}-{n}");
        loop {
            let answer = try_push(&cluster, number, &user, &id).await;
            match answer.map(|answer| (answer.status().as_u16(), answer.headers().contains_key("retry-after"))) {
                Some((200, _)) => break,
                Some((status, has_retry_after)) => assert!(status == 503 && has_retry_after, "{status}"),
                None => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
        acknowledged.insert(id);
        if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
            break;
        }
    }
    acknowledged
}

/// Reads a stream of all tables until it has delivered all of these records, each once.
pub async fn brings_all(stream: &mut Events, expected: &BTreeSet<String>) {
    let mut seen: BTreeMap<String, Vec<(String, Value)>> = BTreeMap::new();
    while seen.len() < expected.len() {
        let delta = stream.delta().await;
        for change in delta.data["changes"].as_array().unwrap() {
            let delivered = (delta.until().to_owned(), change.clone());
            seen.entry(change["id"].as_str().unwrap().to_owned()).or_default().push(delivered);
        }
    }
    assert_eq!(&seen.keys().cloned().collect::<BTreeSet<_>>(), expected);
    let twice: Vec<_> = seen.values().filter(|deliveries| deliveries.len() > 1).collect();
    assert!(twice.is_empty(), "delivered more than once, with these cursors: {twice:#?}");
}

/// Opens a stream of all tables.
pub async fn stream(cluster: &Cluster, replica: usize, user: &User) -> Events {
    Events::open(stream_of(cluster, replica, user, "").timeout(LONG)).await
}
