//! Sends the requests of one device to any replica: a random target each time, a deadline on everything, and retries of
//! the very same bytes, so that the server can tell a retry from a new push.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, StatusCode, Url};

use crate::protocol::{PushRequest, SyncAnswer};

/// How long a device retries.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Maximum duration of one attempt.
    pub attempt: Duration,
    /// Maximum duration of one request with all its attempts.
    pub deadline: Duration,
    /// The first pause between attempts; it doubles up to a second. A longer `Retry-After` is honoured.
    pub pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempt: Duration::from_secs(30), deadline: Duration::from_secs(60), pause: Duration::from_millis(20) }
    }
}

/// The reasons why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A target is not a base URL.
    #[error("the target {target:?} is not a base URL")]
    Target {
        /// The target.
        target: String,
    },
    /// No target was given.
    #[error("no target was given")]
    NoTarget,
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be created")]
    Client(#[source] reqwest::Error),
    /// The request could not be written as JSON.
    #[error("the request could not be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// A request was refused, and would be again.
    #[error("refused with {status} by {url}: {body}")]
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// The URL.
        url: String,
        /// The body of the answer.
        body: String,
    },
    /// An answer violates the protocol.
    #[error("the answer of {url} violates the protocol: {body}")]
    Answer {
        /// The URL.
        url: String,
        /// The body of the answer.
        body: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// It was retried often enough.
    #[error("gave up after {attempts} attempts and {elapsed:?}, the last of them at {url}")]
    GivenUp {
        /// The number of attempts.
        attempts: u64,
        /// The total time.
        elapsed: Duration,
        /// The URL of the last attempt.
        url: String,
        /// The failure of the last attempt.
        #[source]
        last: Box<Attempt>,
    },
}

/// The failure of an attempt that is worth another one.
#[derive(Debug, thiserror::Error)]
pub enum Attempt {
    /// An answer asks to retry.
    #[error("status {status}: {body}")]
    Status {
        /// The status of the answer.
        status: StatusCode,
        /// The body of the answer.
        body: String,
        /// When to retry, if it says so.
        retry_after: Option<Duration>,
    },
    /// No answer.
    #[error("no answer")]
    Connection(#[source] reqwest::Error),
}

/// A device's measurements. Latencies are in microseconds, for whole requests including retries.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Requests, including retries.
    pub requests: u64,
    /// Requests that were retried.
    pub retries: u64,
    /// Pushes sent again although they had been answered.
    pub resent: u64,
    /// Latencies of pushes.
    pub pushes: Histogram<u64>,
    /// Latencies of pulls.
    pub pulls: Histogram<u64>,
}

impl Default for Stats {
    fn default() -> Self {
        let empty = || Histogram::new_with_bounds(1, 600_000_000, 3).unwrap_or_else(|_| unreachable!("valid bounds"));
        Self { requests: 0, retries: 0, resent: 0, pushes: empty(), pulls: empty() }
    }
}

impl Stats {
    /// Adds another device's measurements.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.retries += other.retries;
        self.resent += other.resent;
        self.pushes += &other.pushes;
        self.pulls += &other.pulls;
    }
}

/// Creates a client for many devices, which share its connections. No proxy, no redirects, no overall timeout (streams
/// live long); [`Transport`] sets one on each request.
pub fn http_client() -> Result<reqwest::Client, TransportError> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .build()
        .map_err(TransportError::Client)
}

/// Returns the URL of a path below a target's base URL.
pub fn url_of(target: &str, path: &[&str]) -> Result<Url, TransportError> {
    let invalid = || TransportError::Target { target: target.to_owned() };
    let mut url = Url::parse(target).map_err(|_| invalid())?;
    url.path_segments_mut().map_err(|()| invalid())?.pop_if_empty().extend(path);
    Ok(url)
}

/// A device's connection to the cluster.
pub struct Transport {
    http: reqwest::Client,
    targets: Vec<String>,
    token: String,
    policy: RetryPolicy,
    rng: StdRng,
    stats: Stats,
}

impl Transport {
    /// `seed` decides which replica each request goes to.
    pub fn new(
        http: reqwest::Client,
        targets: Vec<String>,
        token: String,
        policy: RetryPolicy,
        seed: u64,
    ) -> Result<Self, TransportError> {
        if targets.is_empty() {
            return Err(TransportError::NoTarget);
        }
        for target in &targets {
            url_of(target, &[])?;
        }
        Ok(Self { http, targets, token, policy, rng: StdRng::seed_from_u64(seed), stats: Stats::default() })
    }

    /// Uses another token from now on.
    pub fn set_token(&mut self, token: String) {
        self.token = token;
    }

    /// The measurements.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The device's source of randomness.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// Sends a push. With `lose_answer` the first answer is thrown away and the same bytes are sent once more, as after
    /// a connection that broke between the commit and the answer.
    pub async fn push(
        &mut self,
        app: &str,
        request: &PushRequest,
        lose_answer: bool,
    ) -> Result<SyncAnswer, TransportError> {
        let body = serde_json::to_vec(request).map_err(TransportError::Encode)?;
        let call = Call { method: Method::POST, path: vec!["sync", app], query: &[], client_id: None, body };
        if lose_answer {
            self.send(&call).await?;
            self.stats.resent += 1;
        }
        let begun = Instant::now();
        let answer = self.send(&call).await?;
        self.stats.pushes.saturating_record(micros(begun));
        Ok(answer)
    }

    /// Requests a page of one table.
    pub async fn pull(
        &mut self,
        app: &str,
        table: &str,
        since: &str,
        client_id: &str,
    ) -> Result<SyncAnswer, TransportError> {
        let query = [("collection", table), ("since", since)];
        let path = vec!["sync", app, "pull"];
        let call = Call { method: Method::GET, path, query: &query, client_id: Some(client_id), body: Vec::new() };
        let begun = Instant::now();
        let answer = self.send(&call).await?;
        self.stats.pulls.saturating_record(micros(begun));
        Ok(answer)
    }

    async fn send(&mut self, call: &Call<'_>) -> Result<SyncAnswer, TransportError> {
        let begun = Instant::now();
        let mut pause = self.policy.pause;
        for attempts in 1.. {
            let target = self.rng.random_range(0..self.targets.len());
            let url = call.url(&self.targets[target])?;
            self.stats.requests += 1;
            let last = match self.attempt(call, url.clone()).await? {
                Ok(answer) => return Ok(answer),
                Err(last) => last,
            };
            let asked = match &last {
                Attempt::Status { retry_after, .. } => retry_after.unwrap_or_default(),
                Attempt::Connection(_) => Duration::ZERO,
            };
            let jittered = pause.mul_f64(self.rng.random_range(0.5..1.5));
            let wait = asked.max(jittered);
            if begun.elapsed() + wait > self.policy.deadline {
                let (elapsed, url, last) = (begun.elapsed(), url.into(), Box::new(last));
                return Err(TransportError::GivenUp { attempts, elapsed, url, last });
            }
            self.stats.retries += 1;
            pause = (pause * 2).min(Duration::from_secs(1));
            tokio::time::sleep(wait).await;
        }
        unreachable!("the attempts end by an answer or by the deadline")
    }

    /// Makes an attempt: the outer error ends the request, the inner one is worth another attempt.
    async fn attempt(&self, call: &Call<'_>, url: Url) -> Result<Result<SyncAnswer, Attempt>, TransportError> {
        let mut request =
            self.http.request(call.method.clone(), url.clone()).bearer_auth(&self.token).timeout(self.policy.attempt);
        if let Some(client_id) = call.client_id {
            request = request.header("X-Client-Id", client_id);
        }
        if call.method == Method::POST {
            request = request.header("Content-Type", "application/json").body(call.body.clone());
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(Err(Attempt::Connection(error))),
        };
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = match response.bytes().await {
            Ok(body) => body,
            Err(error) => return Ok(Err(Attempt::Connection(error))),
        };
        let shown = || String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
        if status == StatusCode::OK {
            let answer = serde_json::from_slice(&body);
            return answer.map(Ok).map_err(|source| TransportError::Answer { url: url.into(), body: shown(), source });
        }
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            let retry_after = retry_after.map(Duration::from_secs);
            return Ok(Err(Attempt::Status { status, body: shown(), retry_after }));
        }
        Err(TransportError::Refused { status, url: url.into(), body: shown() })
    }
}

struct Call<'a> {
    method: Method,
    path: Vec<&'a str>,
    query: &'a [(&'a str, &'a str)],
    client_id: Option<&'a str>,
    body: Vec<u8>,
}

impl Call<'_> {
    fn url(&self, target: &str) -> Result<Url, TransportError> {
        let mut url = url_of(target, &self.path)?;
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(self.query);
        }
        Ok(url)
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
