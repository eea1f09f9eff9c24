//! Reads the parts of requests to the admin port: token, parameters, body.

use super::Admin;
use super::error::AdminError;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::timeout;

/// Maximum size of a body in bytes, and maximum time to receive it.
const MAX_BODY: usize = 64 << 10;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Passes requests with the admin token on.
pub(super) async fn with_token(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|value| value.trim().split_once(' '));
    match token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) {
        Some((_, token)) if admin.keys.accepts(token.trim()) => next.run(request).await,
        _ => {
            admin.log_refusal("api");
            AdminError::Unauthorized.into_response()
        }
    }
}

impl Admin {
    /// Logs, throttled, that somebody did not have the token.
    pub(super) fn log_refusal(&self, via: &str) {
        if let Some(unwritten) = self.refusal_line.is_due() {
            tracing::warn!(via, unwritten, "a request without a valid admin token was refused");
        }
    }
}

/// Returns the value of a query parameter; none if it is missing or empty.
pub(super) fn optional(uri: &Uri, name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(uri.query()?.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).filter(|value| !value.is_empty())
}

/// Returns the value of a required query parameter.
pub(super) fn required(uri: &Uri, name: &'static str) -> Result<String, AdminError> {
    optional(uri, name).ok_or(AdminError::Missing(name))
}

/// Reads a JSON body.
pub(super) async fn json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, AdminError> {
    let body = read(headers, "application/json", body).await?;
    serde_json::from_slice(&body).map_err(AdminError::Body)
}

/// Reads a form's body.
pub(super) async fn form(headers: &HeaderMap, body: Body) -> Result<Form, AdminError> {
    let body = read(headers, "application/x-www-form-urlencoded", body).await?;
    Ok(Form(url::form_urlencoded::parse(&body).into_owned().collect()))
}

/// The name of a field that marks the others as not typed by anyone.
pub(super) const VERBATIM: &str = "verbatim";

/// The fields of a form.
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    fn sent(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns a field; none if it is missing or empty. Spaces around typed or pasted text are removed; in a form marked
    /// [`VERBATIM`] they are part of a name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let is_ours = self.sent(VERBATIM).is_some();
        self.sent(name).map(|value| if is_ours { value } else { value.trim() }).filter(|value| !value.is_empty())
    }

    pub(super) fn required(&self, name: &'static str) -> Result<&str, AdminError> {
        self.get(name).ok_or(AdminError::Missing(name))
    }
}

async fn read(headers: &HeaderMap, media_type: &'static str, body: Body) -> Result<Bytes, AdminError> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !given.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media_type) {
        return Err(AdminError::MediaType(media_type));
    }
    let whole = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
    match whole {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        _ => Err(AdminError::TooLarge(MAX_BODY)),
    }
}
