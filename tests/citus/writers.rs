//! Users who push all the time, each record until it is acknowledged.

use crate::AT;
use crate::cluster::bucket_of;
use crate::support::live::{APP, NO_DELTA};
use crate::support::*;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Pause before a refused push is retried.
const PAUSE: Duration = Duration::from_millis(50);

/// The result of one attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub bucket: usize,
    pub sent: Instant,
    pub took: Duration,
    pub stored: bool,
}

pub struct Writers {
    writing: JoinSet<(User, Vec<String>)>,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    stop: Arc<AtomicBool>,
}

impl Writers {
    pub fn start(cluster: &Cluster, users: &[User]) -> Writers {
        let (attempts, stop) = (Arc::<Mutex<Vec<Attempt>>>::default(), Arc::<AtomicBool>::default());
        let mut writing = JoinSet::new();
        for (n, user) in users.iter().enumerate() {
            let url = format!("{}/sync/{APP}", cluster.url(n));
            let (http, user, attempts, stop) = (cluster.http.clone(), user.clone(), attempts.clone(), stop.clone());
            writing.spawn(async move {
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let id = format!("r{:06}", acknowledged.len());
                    while !attempt(&http, &url, &user, &id, &attempts).await {
                        tokio::time::sleep(PAUSE).await;
                    }
                    acknowledged.push(id);
                }
                (user, acknowledged)
            });
        }
        Writers { writing, attempts, stop }
    }

    /// All attempts so far.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap().clone()
    }

    /// Waits until each of these buckets has had a push that was sent from now on and ended like this.
    pub async fn each(&self, buckets: &[usize], stored: bool) {
        let from = Instant::now();
        eventually(&format!("pushes of buckets {buckets:?} end, stored: {stored}"), async || {
            let attempts = self.attempts();
            let ended =
                |bucket: &usize| attempts.iter().any(|a| a.bucket == *bucket && a.sent >= from && a.stored == stored);
            buckets.iter().all(ended)
        })
        .await;
    }

    /// Stops the users once the last push of each has been acknowledged. Returns what was acknowledged to each.
    pub async fn stop(mut self) -> Vec<(User, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(written) = self.writing.join_next().await {
            all.push(written.unwrap());
        }
        all
    }
}

/// Pushes once. True if it was stored.
async fn attempt(http: &reqwest::Client, url: &str, user: &User, id: &str, attempts: &Mutex<Vec<Attempt>>) -> bool {
    let body = json!({ "clientId": "writer", "since": NO_DELTA, "changes": [insert("todos", id, "Milk", AT)] });
    let sent = Instant::now();
    let request = http.request(Method::POST, url).bearer_auth(&user.token).timeout(TIMEOUT);
    let response = request.header("Content-Type", "application/json").body(body.to_string()).send().await.unwrap();
    let (status, retry) = (response.status(), response.headers().contains_key("retry-after"));
    let stored = status == StatusCode::OK;
    assert!(
        stored || status == StatusCode::SERVICE_UNAVAILABLE && retry,
        "{status}: {}",
        response.text().await.unwrap()
    );
    let attempt = Attempt { bucket: bucket_of(user), sent, took: sent.elapsed(), stored };
    attempts.lock().unwrap().push(attempt);
    stored
}

/// Checks that exactly what was acknowledged is stored for each user, in the order of the cursors.
pub async fn assert_stored(cluster: &Cluster, written: &[(User, Vec<String>)]) {
    for (user, acknowledged) in written {
        let stored = everything(cluster, user).await;
        assert_eq!(&stored, acknowledged, "of {} in bucket {}", user.id, bucket_of(user));
    }
}

/// The ids of all records of a user, as a new device reads them page by page.
pub async fn everything(cluster: &Cluster, user: &User) -> Vec<String> {
    let (mut since, mut all) = (BEGINNING.to_owned(), Vec::new());
    loop {
        let (status, page) = cluster.pull(user, APP, "todos", &since, None).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        all.extend(ids(&page).into_iter().map(str::to_owned));
        let until = page["syncedUntil"].as_str().unwrap().to_owned();
        assert!(until > since, "cursors ascend");
        since = until;
        if !page["hasMore"].as_bool().unwrap() {
            return all;
        }
    }
}
