//! What the endpoints take from a request before they look at anything else: who calls, for which app.

use super::AppState;
use super::error::ApiError;
use crate::auth::{AuthError, Identity};
use crate::protocol::Log;
use crate::protocol::push::{MAX_APP, MAX_CLIENT, check_name};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use std::borrow::Cow;
use std::sync::Arc;

/// A caller whose token is good and whose sync is paid for, at the log of the app in the path.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) identity: Identity,
    pub(super) log: Log,
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let identity = state.auth.check(bearer(&parts.headers)?).await?;
        let app = path_app(parts, state).await?.ok_or(ApiError::NotFound)?;
        if !state.billing.is_active(&identity.user_id).await {
            return Err(ApiError::SyncInactive);
        }
        let log = Log::new(identity.user_id.clone(), &app);
        Ok(Caller { identity, log })
    }
}

/// The app that the path names, if it names one.
#[derive(Debug)]
pub(super) struct PathApp(pub(super) Option<Arc<str>>);

impl FromRequestParts<AppState> for PathApp {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        path_app(parts, state).await.map(PathApp)
    }
}

async fn path_app(parts: &mut Parts, state: &AppState) -> Result<Option<Arc<str>>, ApiError> {
    let params = match RawPathParams::from_request_parts(parts, state).await {
        Ok(params) => params,
        Err(RawPathParamsRejection::InvalidUtf8InPathParam(_)) => return Err(ApiError::NotFound),
        // The path of this route has none.
        Err(_) => return Ok(None),
    };
    let Some((_, app)) = params.iter().find(|(name, _)| *name == "app") else { return Ok(None) };
    let app = check_name(app, MAX_APP).map_err(|problem| ApiError::Name { name: "the app id", problem })?;
    Ok(Some(app.into()))
}

fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or(AuthError::Missing)?;
    match header.trim().split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(AuthError::Missing),
    }
}

/// The device that a header names; none if it is missing or empty.
pub(super) fn client_id(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    const NAME: &str = "X-Client-Id";
    let Some(value) = headers.get(NAME) else { return Ok(None) };
    match value.to_str().map_err(|_| ApiError::Header(NAME))? {
        "" => Ok(None),
        client => {
            check_name(client, MAX_CLIENT).map_err(|problem| ApiError::Name { name: "the client id", problem })?;
            Ok(Some(client))
        }
    }
}

/// The first value of a query parameter; none if it is missing or empty.
pub(super) fn query<'a>(uri: &'a axum::http::Uri, name: &str) -> Option<Cow<'a, str>> {
    let pairs = url::form_urlencoded::parse(uri.query()?.as_bytes());
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value).filter(|value| !value.is_empty())
}
