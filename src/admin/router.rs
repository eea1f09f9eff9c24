//! The table of the admin port's routes, and the middleware around it.

use super::error::AdminError;
use super::{Admin, api, console, request};
use crate::http::{headers, health, metrics};
use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

/// Builds the router of all endpoints.
pub fn router(admin: Admin) -> Router {
    let api = Router::new()
        .route("/cluster", get(api::cluster))
        .route("/load", get(api::load))
        .route("/user", get(api::user))
        .route("/record", get(api::record))
        .route("/refused-tokens", get(api::refused_tokens).post(api::refuse_token).delete(api::accept_token))
        .route("/disconnect", post(api::disconnect))
        .route("/drain", post(api::drain))
        .route("/compact", post(api::compact))
        .route("/settings", post(api::settings))
        .route("/openapi.yaml", get(api::description))
        .fallback(async || AdminError::NotFound)
        .method_not_allowed_fallback(async || AdminError::MethodNotAllowed)
        .layer(from_fn_with_state(admin.clone(), request::with_token));
    Router::new()
        .nest("/api/v1", api)
        .merge(probes())
        .merge(console::router(&admin))
        .fallback(console::not_found)
        .method_not_allowed_fallback(async || AdminError::MethodNotAllowed)
        .layer(map_response(async |response| headers::protect(response)))
        .with_state(admin)
}

/// Metrics and health for scrapers and probes: without a token, like on the public port.
fn probes() -> Router<Admin> {
    Router::new()
        .route("/health", get(async |State(admin): State<Admin>| health::report(&admin.clock, Some(&admin.metrics))))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(async |State(admin): State<Admin>| health::readiness(&admin.health, true)))
        .route("/metrics", get(scrape))
}

async fn scrape(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    metrics::encode(&admin.metrics, &headers).into_response()
}
