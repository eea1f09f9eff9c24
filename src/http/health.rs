//! `/health`, `/health/live`, `/health/ready`.

use super::AppState;
use super::error::ApiError;
use crate::auth::Authenticator;
use crate::clock::Clock;
use crate::fanout::listener::ListenerStatus;
use crate::shutdown::{Drained, Shutdown};
use crate::store::Buckets;
use crate::store::fitness::Unfit;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::NOT_READY;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Interval between checks of the database.
const PERIOD: Duration = Duration::from_secs(1);

/// The state that readiness depends on.
///
/// A brief database outage must not empty every replica's endpoints at once, so a failure only shows once it has lasted
/// for the grace time. The issuer's keys are waited for once: a replica that has fetched them keeps using them, and is
/// as good as any other while the issuer is away. The same goes for the list of tokens that operators refuse, which a
/// replica must know before it accepts any.
#[derive(Debug)]
pub struct Health {
    grace: Duration,
    listener_status: ListenerStatus,
    auth: Arc<Authenticator>,
    draining: CancellationToken,
    drained: Drained,
    well: Mutex<Well>,
}

/// When each dependency was last healthy; `None` means not yet.
#[derive(Debug, Default)]
struct Well {
    database: Option<Instant>,
    listener: Option<Instant>,
    /// True if the database answered the last check.
    answered: bool,
    /// Why it did not answer, in a sentence.
    failure: Option<String>,
    fit: Option<Instant>,
    /// Why the database cannot serve, as it last reported.
    unfit: Option<Unfit>,
}

impl Health {
    pub(super) fn new(
        grace: Duration,
        listener_status: ListenerStatus,
        auth: Arc<Authenticator>,
        shutdown: &Shutdown,
    ) -> Health {
        let (draining, drained) = (shutdown.draining.clone(), shutdown.drained.clone());
        Health { grace, listener_status, auth, draining, drained, well: Mutex::default() }
    }

    /// Checks the database and the listener until told to stop, or until it turns out that this replica does not know
    /// the schema any more.
    pub async fn watch(&self, store: Buckets, metrics: Arc<Metrics>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let fitness = tokio::time::timeout(PERIOD * 2, store.fitness()).await;
            let answered = match &fitness {
                Ok(Ok(_)) => true,
                // Every connection is in use, which says nothing about the database. The listener has a connection of
                // its own.
                Ok(Err(error)) if error.is_busy() => self.listener_status.is_up(),
                Err(_) => self.listener_status.is_up(),
                Ok(Err(_)) => false,
            };
            let (unfit, failure) = match fitness {
                Ok(Ok(fitness)) => {
                    metrics.notification_queue.set(fitness.notification_queue);
                    (Some(fitness.unfit), None)
                }
                Ok(Err(error)) => (None, Some(error.sentence())),
                // The store retries for as long as a request would wait.
                Err(_) => (None, store.failure()),
            };
            {
                let mut well = self.well.lock().unwrap_or_else(PoisonError::into_inner);
                well.answered = answered;
                well.failure = failure;
                well.database = if answered { Some(Instant::now()) } else { well.database };
                // A problem of background work alone does not make a replica that was ready unready.
                let passes = |unfit: &Unfit| unfit.is_of_background() && well.fit.is_some();
                if let Some(unfit) = unfit.map(|unfit| unfit.filter(|unfit| !passes(unfit))) {
                    well.fit = if unfit.is_none() { Some(Instant::now()) } else { well.fit };
                    well.unfit = unfit;
                }
            }
            let pool = store.pool_status();
            metrics.pool_connections.with_label_values(&["open"]).set(pool.open as i64);
            metrics.pool_connections.with_label_values(&["idle"]).set(pool.idle as i64);
            metrics.pool_waiting.set(pool.waiting as i64);
            self.count(&metrics);
            if self.is_lost() {
                return;
            }
        }
    }

    fn is_lost(&self) -> bool {
        let well = self.well.lock().unwrap_or_else(PoisonError::into_inner);
        let unfit = well.unfit.as_ref().filter(|unfit| unfit.is_final());
        if let Some(unfit) = unfit {
            tracing::error!("{unfit}");
        }
        unfit.is_some()
    }

    /// The reasons why this replica is not ready, as sentences.
    pub fn missing(&self) -> Vec<String> {
        self.reasons().into_iter().map(|(_, sentence)| sentence).collect()
    }

    /// The same, each with its label from [`NOT_READY`].
    fn reasons(&self) -> Vec<(&'static str, String)> {
        let mut well = self.well.lock().unwrap_or_else(PoisonError::into_inner);
        let listening = self.listener_status.is_up();
        if listening {
            well.listener = Some(Instant::now());
        }
        let lasting = |last: Option<Instant>| last.is_none_or(|last| last.elapsed() > self.grace);
        let mut missing = Vec::new();
        if !well.answered && lasting(well.database) {
            let why = well.failure.as_ref().map(|failure| format!(": {failure}")).unwrap_or_default();
            missing.push(("database", format!("the database does not answer{why}")));
        } else if let Some(unfit) = well.unfit.as_ref().filter(|_| lasting(well.fit)) {
            missing.push(("database", unfit.to_string()));
        }
        if !listening && lasting(well.listener) {
            let why = self.listener_status.problem().map(|problem| format!(": {problem}")).unwrap_or_default();
            missing.push(("listener", format!("the listener is not connected{why}")));
        }
        if !self.auth.has_keys() {
            missing.push(("keys", "the issuer's keys (JWKS_URL) have not been fetched yet".to_owned()));
        }
        missing.extend(self.auth.refused().unread().map(|why| ("refused_tokens", why)));
        if self.draining.is_cancelled() {
            missing.push(("draining", "the replica is draining".to_owned()));
        }
        if self.drained.is_on() {
            missing.push(("drained", "an operator has drained the replica".to_owned()));
        }
        missing
    }

    fn count(&self, metrics: &Metrics) {
        let missing = self.reasons();
        metrics.ready.set(i64::from(missing.is_empty()));
        for reason in NOT_READY {
            let applies = missing.iter().any(|(known, _)| known == reason);
            metrics.not_ready.with_label_values(&[reason]).set(i64::from(applies));
        }
    }
}

#[derive(Serialize)]
struct Report {
    status: &'static str,
    service: &'static str,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<i64>,
}

pub(super) async fn health(State(state): State<AppState>) -> Response {
    report(&state.clock, state.config.admin.public_metrics.then_some(&*state.metrics))
}

/// Reports that this process lives and, given metrics, how many connections and users it serves.
pub(crate) fn report(clock: &Clock, metrics: Option<&Metrics>) -> Response {
    json(&Report {
        status: "ok",
        service: "mana-sync",
        timestamp: crate::protocol::Stamp::from_millis(clock.millis() as i64).to_string(),
        connections: metrics.map(|metrics| metrics.connections.get()),
        users: metrics.map(|metrics| metrics.users.get()),
    })
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

pub(crate) async fn live() -> Response {
    json(&Status { status: "ok" })
}

pub(super) async fn ready(State(state): State<AppState>) -> Result<Response, ApiError> {
    readiness(&state.health, state.config.admin.public_metrics)
}

/// Reports whether this replica is ready and, with `tells_why`, what is missing.
pub(crate) fn readiness(health: &Health, tells_why: bool) -> Result<Response, ApiError> {
    match health.missing() {
        missing if missing.is_empty() => Ok(json(&Status { status: "ready" })),
        missing if tells_why => Err(ApiError::NotReady(missing.join(", "))),
        _ => Err(ApiError::NotReady("ADMIN_PORT says why".to_owned())),
    }
}

fn json(body: &impl Serialize) -> Response {
    // Strings and numbers always serialize.
    let body = serde_json::to_string(body).unwrap_or_default();
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
