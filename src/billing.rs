//! The billing gate: whose sync is paid for, as the credits service says.
//!
//! It fails open. A credits service that is down, slow or broken must not stop anybody's sync, nor slow it: who got no
//! answer is let through and not asked about for a while. Failures in a row may be the service's, or those of a few
//! users whom it cannot answer about. So before it is left alone it is asked about a user whom it knows well: only if
//! that fails too the breaker opens, and nobody waits for the service until it is found well again.

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

/// Failures in a row after which it is found out whether the service has failed.
const TOLERATED_FAILURES: u32 = 2;
/// Users whose answer is remembered, at most.
const CACHED_USERS: u64 = 200_000;
/// Asked about where no user is known whom the service has answered about: any answer will do.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// Asks the credits service, and remembers.
#[derive(Clone, Debug)]
pub struct Billing {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    service: CreditsService,
    retry: Duration,
    /// How long an answer holds.
    lasts: Duration,
    /// What was answered, and when.
    answers: Cache<Arc<str>, (bool, Instant)>,
    /// Users about whom there was no answer, and when.
    unanswered: Cache<Arc<str>, Instant>,
    /// The last user about whom there was an answer.
    answered: Mutex<Option<Arc<str>>>,
    breaker: watch::Sender<Breaker>,
    unanswered_line: Throttle,
    metrics: Arc<Metrics>,
    clock: Clock,
}

#[derive(Clone, Copy, Debug)]
enum Breaker {
    /// The service is asked. So many failures in a row.
    Closed(u32),
    /// It is being found out whether the service is well. Until then everybody waits, as for an answer.
    Probing,
    /// The service is left alone until then; the first request after that has it found out whether it is well again.
    Open(Instant),
}

impl Billing {
    /// A gate that has asked nothing yet.
    ///
    /// # Errors
    /// TLS cannot be set up.
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

    /// Whether this user may sync. True wherever the service gives no answer.
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

    /// What was last answered about a user, if that still holds.
    async fn known(&self, user: &Arc<str>) -> Option<bool> {
        let shared = &self.shared;
        let (active, answered) = shared.answers.get(user).await?;
        if shared.clock.instant() < answered + shared.lasts {
            return Some(active);
        }
        // Or it would stand in the way of the next answer.
        shared.answers.invalidate(user).await;
        None
    }

    /// Whether there was no answer about a user a moment ago.
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
        // A task of its own: the answer is wanted even if the client that caused the question goes away.
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

    /// Whether the service is well, as far as is known. Waits while that is being found out.
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

/// Asks about a user, and notes what that says about the service.
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
                tracing::warn!(error, unwritten, "the credits service gave no answer; the user's sync goes on");
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

/// Finds out whether the service is well. The breaker must be [`Breaker::Probing`].
fn probe(shared: Arc<Shared>) {
    tokio::spawn(async move {
        let known = shared.answered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = shared.service.is_active(known.as_deref().unwrap_or(NOBODY)).await;
        let outcome = match &answer {
            Ok(_) => Breaker::Closed(0),
            Err(error) => {
                let error = error as &dyn std::error::Error;
                tracing::warn!(error, "the credits service failed; everybody's sync goes on");
                Breaker::Open(shared.clock.instant() + shared.retry)
            }
        };
        shared.breaker.send_replace(outcome);
    });
}
