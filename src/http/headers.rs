//! Headers of every answer.

use axum::http::HeaderValue;
use axum::http::header::{ALLOW, CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::response::Response;

/// Keeps caches from storing users' data, and browsers from guessing its type. An answer that sets its own caching
/// policy keeps it.
pub(crate) fn protect(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Names OPTIONS among the methods that an endpoint allows: it is answered before the router, which names its own.
pub(super) fn allow_options(mut response: Response) -> Response {
    let headers = response.headers_mut();
    if let Some(allowed) = headers.get(ALLOW)
        && let Ok(allowed) = HeaderValue::from_bytes(&[allowed.as_bytes(), b",OPTIONS"].concat())
    {
        headers.insert(ALLOW, allowed);
    }
    response
}
