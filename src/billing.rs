//! The billing gate: whose sync is paid for, as the credits service says.
//!
//! It fails open. A credits service that is down, slow or broken must not stop anybody's sync, nor slow it:
//! after a few failures in a row the breaker opens and nobody waits for the service until one request in a while
//! finds it well again.

use crate::config::{Config, Secret};
use crate::telemetry::Metrics;
use moka::future::Cache;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use url::Url;

/// Failures in a row after which the service is left alone.
const TOLERATED_FAILURES: u32 = 3;
/// Users whose answer is remembered, at most.
const CACHED_USERS: u64 = 200_000;

/// Asks the credits service, and remembers.
#[derive(Clone, Debug)]
pub struct Billing {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    http: reqwest::Client,
    base: Url,
    key: Secret,
    timeout: Duration,
    retry: Duration,
    answers: Cache<Arc<str>, bool>,
    breaker: Mutex<Breaker>,
    /// Rung when the breaker opens: whoever waits for the service waits no longer.
    opened: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum Breaker {
    /// The service is asked. So many failures in a row.
    Closed(u32),
    /// The service is left alone until then; the first request after that finds out whether it is well again.
    Open(Instant),
}

#[derive(Deserialize)]
struct Status {
    active: bool,
}

#[derive(Debug, thiserror::Error)]
enum BillingError {
    #[error("the credits service could not be asked")]
    Http(#[from] reqwest::Error),
    #[error("the credits service's address cannot be extended by a path")]
    Address(#[from] url::ParseError),
}

impl Billing {
    /// A gate that has asked nothing yet.
    pub fn new(config: &Config, http: reqwest::Client, metrics: Arc<Metrics>) -> Billing {
        let answers = Cache::builder().max_capacity(CACHED_USERS).time_to_live(config.billing_cache_ms).build();
        let shared = Shared {
            http,
            base: config.mana_credits_url.clone(),
            key: config.mana_service_key.clone(),
            timeout: config.billing_timeout_ms,
            retry: config.billing_retry_ms,
            answers,
            breaker: Mutex::new(Breaker::Closed(0)),
            opened: Notify::new(),
            metrics,
        };
        Billing { shared: Arc::new(shared) }
    }

    /// Whether this user may sync. True wherever the service gives no answer.
    pub async fn is_active(&self, user: &Arc<str>) -> bool {
        let shared = &self.shared;
        let answer = match shared.answers.get(user).await {
            Some(active) => Some(active),
            None => self.ask(user).await,
        };
        let outcome = match answer {
            Some(true) => "active",
            Some(false) => "inactive",
            None => "failed_open",
        };
        shared.metrics.billing.with_label_values(&[outcome]).inc();
        answer.unwrap_or(true)
    }

    async fn ask(&self, user: &Arc<str>) -> Option<bool> {
        let opened = self.shared.opened.notified();
        if !self.shared.may_ask() {
            return None;
        }
        let (shared, user) = (self.shared.clone(), user.clone());
        // A task of its own: the answer is wanted even if the client that caused the question goes away.
        let asking = tokio::spawn(async move {
            let asked = shared.answers.try_get_with(user.clone(), shared.request(&user)).await;
            asked.ok()
        });
        tokio::select! {
            answer = asking => answer.ok().flatten(),
            () = opened => None,
        }
    }
}

impl Shared {
    async fn request(&self, user: &str) -> Result<bool, BillingError> {
        let answer = self.get_status(user).await;
        self.note(&answer);
        answer
    }

    async fn get_status(&self, user: &str) -> Result<bool, BillingError> {
        let user = utf8_percent_encode(user, NON_ALPHANUMERIC);
        let url = format!("{}/api/v1/internal/sync/status/{user}", self.base.as_str().trim_end_matches('/'));
        let request = self.http.get(Url::parse(&url)?).header("X-Service-Key", self.key.expose()).timeout(self.timeout);
        let answer = request.send().await?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            // The service is well and does not know this user: no reason to stop the user's sync, nor to think
            // that the service has failed.
            return Ok(true);
        }
        let status: Status = answer.error_for_status()?.json().await?;
        Ok(status.active)
    }

    fn may_ask(&self) -> bool {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        match *breaker {
            Breaker::Closed(_) => true,
            Breaker::Open(until) if Instant::now() < until => false,
            Breaker::Open(_) => {
                *breaker = Breaker::Open(Instant::now() + self.retry);
                true
            }
        }
    }

    fn note(&self, answer: &Result<bool, BillingError>) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = match (answer, &*breaker) {
            (Ok(_), _) => {
                *breaker = Breaker::Closed(0);
                return;
            }
            (Err(_), Breaker::Closed(failures)) => failures + 1,
            (Err(_), Breaker::Open(_)) => TOLERATED_FAILURES,
        };
        if let Err(error) = answer {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                failures,
                "the credits service failed; sync goes on"
            );
        }
        if failures >= TOLERATED_FAILURES {
            *breaker = Breaker::Open(Instant::now() + self.retry);
            self.opened.notify_waiters();
        } else {
            *breaker = Breaker::Closed(failures);
        }
    }
}
