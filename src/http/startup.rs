//! The answers of a replica that cannot serve yet: live, but not ready. A liveness probe must not restart it for
//! waiting for its database.

use super::error::ApiError;
use super::server::{ACCEPT_PAUSE, MAX_REFUSALS, answer_once};
use super::{health, metrics};
use crate::clock::Clock;
use crate::telemetry::Metrics;
use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower::ServiceExt;

/// A start rarely takes longer; until then connections wait, to be served rather than refused.
const USUAL_START: Duration = Duration::from_millis(500);

/// Why a replica still waits, if the database is not just away and an operator has to act.
#[derive(Clone, Debug, Default)]
pub struct WaitReason(Arc<Mutex<Option<String>>>);

impl WaitReason {
    /// Sets the reason, or clears it.
    pub fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    fn sentence(&self) -> String {
        let reason = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let why = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("the replica is waiting for its database{why}")
    }
}

/// A listener of the replica, and the router that answers there before it can serve.
pub type Waiting<'a> = (&'a TcpListener, Router);

/// Waits for a start to finish, and answers on the listeners if that takes long.
pub async fn serve_until<T>(listeners: &[Waiting<'_>], starting: impl Future<Output = T>) -> T {
    let mut starting = pin!(starting);
    if let Ok(done) = timeout(USUAL_START, &mut starting).await {
        return done;
    }
    let places = Arc::new(Semaphore::new(MAX_REFUSALS));
    loop {
        let accepted = tokio::select! {
            done = &mut starting => return done,
            accepted = accept_any(listeners) => accepted,
        };
        match (accepted, places.clone().try_acquire_owned()) {
            (Ok((stream, router)), Ok(place)) => {
                tokio::spawn(async move {
                    answer_once(stream, move |request| router.clone().oneshot(request)).await;
                    drop(place);
                });
            }
            // Connections beyond that are cut off.
            (Ok(_), Err(_)) => {}
            (Err(error), _) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Builds the router for the time before the replica can serve; with metrics, if they are public there.
pub fn router(metrics: &Arc<Metrics>, clock: &Clock, reason: &WaitReason, with_metrics: bool) -> Router {
    let (counted, encoded, clock, reason) = (metrics.clone(), metrics.clone(), clock.clone(), reason.clone());
    let routes = match with_metrics {
        true => {
            Router::new().route("/metrics", get(async move |headers: HeaderMap| metrics::encode(&encoded, &headers)))
        }
        false => Router::new(),
    };
    routes
        .route("/health", get(async move || health::report(&clock, with_metrics.then_some(&*counted))))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(async move || ApiError::NotReady(reason.sentence())))
        // Only operators are told more.
        .fallback(async || ApiError::NotReady(WaitReason::default().sentence()))
}

async fn accept_any(listeners: &[Waiting<'_>]) -> std::io::Result<(TcpStream, Router)> {
    poll_fn(|cx| {
        let accepted = listeners.iter().find_map(|(listener, router)| match listener.poll_accept(cx) {
            Poll::Ready(accepted) => Some(accepted.map(|(stream, _)| (stream, router.clone()))),
            Poll::Pending => None,
        });
        accepted.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
