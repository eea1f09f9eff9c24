//! `/metrics`: Prometheus text, or OpenMetrics with exemplars for clients that ask for it.
//!
//! The endpoint needs no authentication and its answer is long, so the number of unread answers is bounded (G6).

use super::AppState;
use super::answer::holding;
use super::connection::address_of;
use super::error::ApiError;
use crate::limits::turns::Turns;
use crate::places::Places;
use crate::telemetry::Metrics;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{Extensions, HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Maximum number of unread answers, besides some reserved for addresses that hold few.
const MAX_UNREAD: usize = 64;

/// The metrics, on a public port.
pub(super) fn endpoint() -> MethodRouter<AppState> {
    let (unread, turns) = (Places::new(MAX_UNREAD), Turns::default());
    get(async move |State(state): State<AppState>, extensions: Extensions, headers: HeaderMap| {
        let place = unread.enter(address_of(&extensions)).ok_or_else(|| {
            state.metrics.refused.with_label_values(&["scrapes"]).inc();
            ApiError::Busy
        })?;
        // It takes longer than anything else that anybody may request.
        turns.next().await;
        encode(&state.metrics, &headers).map(|answer| holding(place, answer))
    })
}

/// Encodes the metrics in the form that the request prefers.
pub(crate) fn encode(metrics: &Metrics, headers: &HeaderMap) -> Result<Response, ApiError> {
    if prefers_open_metrics(headers) {
        return Ok(([(CONTENT_TYPE, OPEN_METRICS)], metrics.encode_open()).into_response());
    }
    Ok(([(CONTENT_TYPE, TEXT)], metrics.encode()?).into_response())
}

/// True if the client names OpenMetrics and doesn't prefer plain text.
fn prefers_open_metrics(headers: &HeaderMap) -> bool {
    let (mut open, mut text) = (0.0, 0.0);
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in accepted.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
        let kind = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=").map(|q| q.parse().unwrap_or(0.0))).unwrap_or(1.0);
        match kind.as_str() {
            "application/openmetrics-text" => open = f32::max(open, quality),
            "text/plain" => text = f32::max(text, quality),
            _ => {}
        }
    }
    open > 0.0 && open >= text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_like_it_best() {
        let prefers = |accept: &'static str| {
            prefers_open_metrics(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]))
        };
        for accept in [
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; Version=1.0.0; Q=0.5",
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "text/html, application/openmetrics-text;q=0.2, */*;q=0.1",
        ] {
            assert!(prefers(accept), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain",
            "application/*",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=nonsense",
            "text/plain;q=0.9,application/openmetrics-text;q=0.8",
        ] {
            assert!(!prefers(accept), "{accept}");
        }
        assert!(!prefers_open_metrics(&HeaderMap::new()));
    }
}
