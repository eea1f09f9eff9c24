//! Outermost middleware: gives each request an id, a span if it is sampled and a log line, and counts it. Requests with
//! long queries take turns.

use super::AppState;
use super::connection::scheme_of;
use super::extract::ALL_APPS_STREAM;
use crate::config::Config;
use crate::telemetry::refusals::{Endpoint, Refusal, Refusals};
use crate::telemetry::request_id::{HEADER, RequestId};
use crate::telemetry::traces;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Instrument, Span};

/// Requests with longer queries, in bytes, have turns: they name very many tables, and reading that takes a third of a
/// millisecond. Hundreds that arrive at the same moment would be served before everybody else's next turn.
const LONG_QUERY: usize = 8 << 10;

/// Wraps a request. The span ends with the head of the answer: for a WebSocket at 101, for a stream before its first
/// event.
pub(super) async fn observe(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::of(request.headers(), &state.clock);
    let span = span(&state, &request);
    let access = Access::of(&request, &state.config);
    let noted = span.clone();
    let answering = async {
        if request.uri().query().is_some_and(|query| query.len() > LONG_QUERY) {
            state.large.next().await;
        }
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

/// Probes and scrapes have no span: they are many and tell little.
fn span(state: &AppState, request: &Request) -> Span {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    match route {
        Some("/health" | "/health/live" | "/health/ready" | "/metrics") => Span::none(),
        route => {
            let (path, scheme) = (request.uri().path(), scheme_of(request.extensions()));
            state.traces.request(request.method(), route, path, scheme, request.headers())
        }
    }
}

/// Maximum number of bytes logged of an origin.
const MAX_ORIGIN: usize = 128;

struct Access {
    method: Method,
    route: Option<MatchedPath>,
    /// For a preflight: the page's origin.
    preflight_of: Option<HeaderValue>,
}

impl Access {
    fn of(request: &Request, config: &Config) -> Access {
        // If no origin is allowed to call, preflights are not expected.
        let is_preflight = request.method() == Method::OPTIONS
            && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
            && config.http.cors_origins.iter().flatten().next().is_some();
        let origin = request.headers().get(ORIGIN);
        Access {
            method: request.method().clone(),
            route: request.extensions().get().cloned(),
            preflight_of: origin.filter(|_| is_preflight).cloned(),
        }
    }

    /// The endpoint that was called; none for probes and anything else that is not a client's work.
    fn endpoint(&self) -> Option<Endpoint> {
        let route = self.route.as_ref()?.as_str();
        if self.method != Method::OPTIONS {
            return endpoint_of(&self.method, route);
        }
        // Browsers ask none for WebSockets.
        let is_asked_for = |method| endpoint_of(method, route).is_some_and(|endpoint| endpoint != Endpoint::WebSocket);
        let is_preflight = self.preflight_of.is_some() && [Method::GET, Method::POST].iter().any(is_asked_for);
        is_preflight.then_some(Endpoint::Preflight)
    }

    /// Counts accepted and refused requests. An upgraded WebSocket is neither yet: its session counts it.
    fn count(&self, state: &AppState, response: &Response) {
        let Some(endpoint) = self.endpoint() else { return };
        let refusals = &state.metrics.refusals;
        // Browsers go by this header: a preflight is answered 200 for any page.
        if let Some(origin) = &self.preflight_of
            && !response.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN)
        {
            return refuse_origin(refusals, origin);
        }
        if response.status().is_success() {
            refusals.accept(endpoint);
        }
        let Some(reason) = response.extensions().get::<Refusal>() else { return };
        refusals.refuse(endpoint, *reason);
        if reason.is_logged_with_the_answer()
            && let Some(unwritten) = refusals.line_due(*reason)
        {
            tracing::info!(reason = reason.label(), endpoint = endpoint.label(), unwritten, "requests are refused");
        }
    }

    fn log(&self, status: StatusCode, took: Duration) {
        let route = self.route.as_ref().map(MatchedPath::as_str);
        let seconds = took.as_secs_f64();
        tracing::debug!(method = %self.method, route, status = status.as_u16(), seconds, "answered");
    }
}

fn endpoint_of(method: &Method, route: &str) -> Option<Endpoint> {
    match (method, route) {
        (&Method::POST, "/sync/{app}" | ALL_APPS_STREAM) => Some(Endpoint::Push),
        (&Method::GET, "/sync/{app}/pull") => Some(Endpoint::Pull),
        (&Method::GET, "/sync/{app}/stream" | ALL_APPS_STREAM) => Some(Endpoint::Stream),
        (&Method::GET, "/ws" | "/ws/{app}") => Some(Endpoint::WebSocket),
        _ => None,
    }
}

fn refuse_origin(refusals: &Refusals, origin: &HeaderValue) {
    refusals.refuse(Endpoint::Preflight, Refusal::Origin);
    if let Some(unwritten) = refusals.line_due(Refusal::Origin) {
        let text = String::from_utf8_lossy(&origin.as_bytes()[..origin.len().min(MAX_ORIGIN)]);
        tracing::info!(reason = Refusal::Origin.label(), origin = ?text, unwritten, "requests are refused");
    }
}
