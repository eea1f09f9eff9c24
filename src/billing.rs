//! The billing gate: asks the credits service whose sync is paid for.
//!
//! It fails open. A credits service that is down, slow or broken must not stop or slow down anybody's sync: a user for
//! whom there is no answer is let through, and not asked about again for a while. Consecutive failures may be the
//! service's fault, or concern a few users that it cannot answer for. Therefore the breaker first probes with a user
//! that the service knows. Only if that fails too does it open, and nobody waits for the service until it has
//! recovered.

mod service;

pub use service::TlsError;

use crate::clock::Clock;
use crate::config::Config;
use crate::telemetry::throttle::Throttle;
use crate::telemetry::{Metrics, traces};
use moka::future::Cache;
use service::{CreditsError, CreditsService};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument;

/// Consecutive failures after which the service is probed.
const TOLERATED_FAILURES: u32 = 2;
/// Maximum number of users whose answers are cached.
const CACHED_USERS: u64 = 200_000;
/// The user to probe with if the service has not answered for any user yet: any answer will do.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// Asks the credits service, and caches its answers.
#[derive(Clone, Debug)]
pub struct Billing {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    service: CreditsService,
    retry: Duration,
    /// How long an answer is valid.
    lasts: Duration,
    /// The answers, and when they were given.
    answers: Cache<Arc<str>, (bool, Instant)>,
    /// Users for whom there was no answer, and when.
    unanswered: Cache<Arc<str>, Instant>,
    /// The last user for whom there was an answer.
    answered: Mutex<Option<Arc<str>>>,
    breaker: watch::Sender<Breaker>,
    unanswered_line: Throttle,
    metrics: Arc<Metrics>,
    clock: Clock,
}

#[derive(Clone, Copy, Debug)]
enum Breaker {
    /// The service is asked. Holds the number of consecutive failures.
    Closed(u32),
    /// The service is being probed. Until that is done everybody waits, as for an answer.
    Probing,
    /// The service is not asked before this time; the first request after it starts a probe.
    Open(Instant),
}

impl Billing {
    /// Creates a gate that has not asked anything yet.
    ///
    /// # Errors
    /// Fails if TLS cannot be set up.
    pub fn new(config: &Config, metrics: Arc<Metrics>, clock: Clock) -> Result<Billing, TlsError> {
        let shared = Shared {
            service: CreditsService::new(config)?,
            retry: config.billing.billing_retry_ms,
            lasts: config.billing.billing_cache_ms,
            answers: Cache::builder().max_capacity(CACHED_USERS).time_to_live(config.billing.billing_cache_ms).build(),
            unanswered: Cache::builder()
                .max_capacity(CACHED_USERS)
                .time_to_live(config.billing.billing_retry_ms)
                .build(),
            answered: Mutex::default(),
            breaker: watch::Sender::new(Breaker::Closed(0)),
            unanswered_line: Throttle::default(),
            metrics,
            clock,
        };
        Ok(Billing { shared: Arc::new(shared) })
    }

    /// Returns true if this user may sync, or if the service gives no answer.
    pub async fn is_active(&self, user: &Arc<str>) -> bool {
        let shared = &self.shared;
        let answer = match self.known(user).await {
            Some(active) => Some(active),
            None if self.was_unanswered(user).await => None,
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

    /// Returns the last answer for a user, if it is still valid.
    async fn known(&self, user: &Arc<str>) -> Option<bool> {
        let shared = &self.shared;
        let (active, answered) = shared.answers.get(user).await?;
        if shared.clock.instant() < answered + shared.lasts {
            return Some(active);
        }
        // Otherwise it would block the next answer.
        shared.answers.invalidate(user).await;
        None
    }

    /// Returns true if there was no answer for a user a moment ago.
    async fn was_unanswered(&self, user: &Arc<str>) -> bool {
        let shared = &self.shared;
        let last = shared.unanswered.get(user).await;
        last.is_some_and(|last| shared.clock.instant() < last + shared.retry)
    }

    async fn ask(&self, user: &Arc<str>) -> Option<bool> {
        if !self.may_ask().await {
            return None;
        }
        let (shared, user) = (self.shared.clone(), user.clone());
        let mut breaker = shared.breaker.subscribe();
        // In a task of its own: the answer is useful even if the client that prompted the request disconnects.
        let asking = tokio::spawn(async move {
            let asked = shared.answers.try_get_with(user.clone(), request(&shared, &user)).await;
            asked.ok().map(|(active, _)| active)
        });
        let answer = async {
            tokio::select! {
                answer = asking => answer.ok().flatten(),
                _ = breaker.wait_for(|breaker| matches!(breaker, Breaker::Open(_))) => None,
            }
        };
        answer.instrument(traces::wait_span("wait for the credits service")).await
    }

    /// Returns true if the service is believed to be well. Waits for a probe in progress.
    async fn may_ask(&self) -> bool {
        let shared = &self.shared;
        let mut breaker = shared.breaker.subscribe();
        let is_due = |breaker: &mut Breaker| {
            let due = matches!(breaker, Breaker::Open(until) if shared.clock.instant() >= *until);
            if due {
                *breaker = Breaker::Probing;
            }
            due
        };
        if shared.breaker.send_if_modified(is_due) {
            probe(shared.clone());
        }
        let settled = breaker.wait_for(|breaker| !matches!(breaker, Breaker::Probing)).await;
        settled.is_ok_and(|breaker| matches!(*breaker, Breaker::Closed(_)))
    }
}

/// Asks about a user, and records what the result says about the service.
async fn request(shared: &Arc<Shared>, user: &Arc<str>) -> Result<(bool, Instant), CreditsError> {
    let answer = shared.service.is_active(user).await;
    match &answer {
        Ok(_) => {
            *shared.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(user.clone());
            shared.breaker.send_replace(Breaker::Closed(0));
        }
        Err(error) => {
            if let Some(unwritten) = shared.unanswered_line.is_due() {
                let error = error as &dyn std::error::Error;
                tracing::warn!(error, unwritten, "no answer from the credits service; the user's sync continues");
            }
            shared.unanswered.insert(user.clone(), shared.clock.instant()).await;
            let is_suspicious = |breaker: &mut Breaker| {
                let Breaker::Closed(failures) = breaker else { return false };
                *failures += 1;
                let suspicious = *failures >= TOLERATED_FAILURES;
                if suspicious {
                    *breaker = Breaker::Probing;
                }
                suspicious
            };
            if shared.breaker.send_if_modified(is_suspicious) {
                probe(shared.clone());
            }
        }
    }
    answer.map(|active| (active, shared.clock.instant()))
}

/// Probes the service. The breaker must be [`Breaker::Probing`].
fn probe(shared: Arc<Shared>) {
    tokio::spawn(async move {
        let known = shared.answered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = shared.service.is_active(known.as_deref().unwrap_or(NOBODY)).await;
        let outcome = match &answer {
            Ok(_) => Breaker::Closed(0),
            Err(error) => {
                let error = error as &dyn std::error::Error;
                tracing::warn!(error, "the credits service failed; sync continues for everybody");
                Breaker::Open(shared.clock.instant() + shared.retry)
            }
        };
        shared.breaker.send_replace(outcome);
    });
}
