//! What every request passes first: it gets an id, a span if it is sampled, a line in the log, and is counted.

use super::AppState;
use super::extract::ALL_APPS_STREAM;
use crate::telemetry::refusals::{Endpoint, Refusal};
use crate::telemetry::request_id::{HEADER, RequestId};
use crate::telemetry::traces;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Instrument, Span};

/// The span ends with the head of the answer: that of a WebSocket at 101, that of a stream before its first event.
pub(super) async fn observe(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::of(request.headers(), &state.clock);
    let span = span(&state, &request);
    let access = Access { method: request.method().clone(), route: request.extensions().get().cloned() };
    let noted = span.clone();
    let answering = async {
        let response = next.run(request).await;
        traces::answered(&noted, response.status());
        let (route, took) = (access.route.as_ref().map(MatchedPath::as_str), started.elapsed());
        state.metrics.http.count(route, response.status().as_u16(), took);
        access.count(&state, &response);
        access.log(response.status(), took);
        response
    };
    let mut response = id.clone().scope(answering).instrument(span).await;
    response.headers_mut().insert(HEADER, id.into_header());
    response
}

/// Probes and scrapes have none: they are many and tell nothing.
fn span(state: &AppState, request: &Request) -> Span {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    match route {
        Some("/health" | "/health/live" | "/health/ready" | "/metrics") => Span::none(),
        route => state.traces.request(request.method(), route, request.uri().path(), request.headers()),
    }
}

struct Access {
    method: Method,
    route: Option<MatchedPath>,
}

impl Access {
    /// What was asked for; none for probes, preflights and whatever else is no client's work.
    fn endpoint(&self) -> Option<Endpoint> {
        match (&self.method, self.route.as_ref()?.as_str()) {
            (&Method::POST, "/sync/{app}" | ALL_APPS_STREAM) => Some(Endpoint::Push),
            (&Method::GET, "/sync/{app}/pull") => Some(Endpoint::Pull),
            (&Method::GET, "/sync/{app}/stream" | ALL_APPS_STREAM) => Some(Endpoint::Stream),
            (&Method::GET, "/ws" | "/ws/{app}") => Some(Endpoint::WebSocket),
            _ => None,
        }
    }

    /// Counts who was let in and who was not. A WebSocket that is upgraded is neither yet: its session says.
    fn count(&self, state: &AppState, response: &Response) {
        let Some(endpoint) = self.endpoint() else { return };
        let refusals = &state.metrics.refusals;
        if response.status().is_success() {
            refusals.accept(endpoint);
        }
        let Some(reason) = response.extensions().get::<Refusal>() else { return };
        refusals.refuse(endpoint, *reason);
        if reason.is_logged_with_the_answer()
            && let Some(unwritten) = refusals.line_due(*reason)
        {
            tracing::info!(reason = reason.label(), ?endpoint, unwritten, "requests are refused");
        }
    }

    fn log(&self, status: StatusCode, took: Duration) {
        let route = self.route.as_ref().map(MatchedPath::as_str);
        let seconds = took.as_secs_f64();
        tracing::debug!(method = %self.method, route, status = status.as_u16(), seconds, "answered");
    }
}
