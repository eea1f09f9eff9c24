//! The table of routes, and the middleware around it.

use super::error::ApiError;
use super::extract::ALL_APPS_STREAM;
use super::{
    AppState, answer, apps_stream, compression, headers, health, metrics, middleware, pull, push, stream, websocket,
};
use crate::config::Config;
use crate::telemetry::request_id;
use axum::Router;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::{get, post};
use std::time::Duration;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// Maximum time for which browsers may cache CORS preflights.
const CORS_MAX_AGE: Duration = Duration::from_secs(3600);

/// Builds the router of all endpoints.
pub fn router(state: AppState) -> Router {
    let metrics = match state.config.admin.public_metrics {
        true => Router::new().route("/metrics", metrics::endpoint()),
        false => Router::new(),
    };
    Router::new()
        .route("/sync/{app}", compression::pages(post(push::push)))
        .route("/sync/{app}/pull", compression::pages(get(pull::pull)))
        .route("/sync/{app}/stream", get(stream::stream))
        .route(ALL_APPS_STREAM, get(apps_stream::stream).merge(compression::pages(post(push::push))))
        .route("/ws", get(websocket::connect))
        .route("/ws/{app}", get(websocket::connect))
        .route("/health", get(health::health))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .merge(metrics)
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(cors(&state.config))
        .layer(from_fn_with_state(state.clone(), middleware::observe))
        .layer(map_response(async |response| answer::hold_until_taken(headers::protect(response))))
        .with_state(state)
}

fn cors(config: &Config) -> CorsLayer {
    let origins: Vec<_> = config.http.cors_origins.iter().flatten().cloned().collect();
    let is_allowed = move |origin: &HeaderValue, _: &Parts| origins.iter().any(|known| known.allows(origin.as_bytes()));
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(is_allowed))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::OPTIONS])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            HeaderName::from_static("x-client-id"),
            HeaderName::from_static("last-event-id"),
            HeaderName::from_static("traceparent"),
            HeaderName::from_static("tracestate"),
            request_id::HEADER,
        ])
        .expose_headers([RETRY_AFTER, request_id::HEADER])
        .max_age(CORS_MAX_AGE)
}
