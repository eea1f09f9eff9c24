//! `/metrics`.

use super::AppState;
use super::error::ApiError;
use crate::telemetry::Metrics;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

pub(super) async fn metrics(State(state): State<AppState>) -> Result<Response, ApiError> {
    encode(&state.metrics)
}

pub(crate) fn encode(metrics: &Metrics) -> Result<Response, ApiError> {
    let text = metrics.encode()?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"))], text).into_response())
}
