//! Extractors that run before anything else in an endpoint: who calls, and for which app.

use super::AppState;
use super::connection::{Connection, address_of};
use super::error::ApiError;
use crate::auth::{AuthError, Identity};
use crate::protocol::Log;
use crate::protocol::push::{MAX_APP, MAX_CLIENT, check_name};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING};
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::str::Utf8Error;
use std::sync::Arc;

/// A caller with a valid token and active sync, and the log of the app in the path.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) identity: Identity,
    pub(super) log: Log,
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let identity = identify(parts, state).await?;
        let app = path_app(parts, state).await?.ok_or(ApiError::NotFound)?;
        let Authenticated(identity) = Authenticated::of(identity, state).await?;
        let log = Log::new(identity.user_id.clone(), &app);
        Ok(Caller { identity, log })
    }
}

/// A caller with a valid token and active sync, independent of the path.
#[derive(Debug)]
pub(super) struct Authenticated(pub(super) Identity);

impl Authenticated {
    async fn of(identity: Identity, state: &AppState) -> Result<Authenticated, ApiError> {
        if state.billing.is_active(&identity.user_id).await {
            Ok(Authenticated(identity))
        } else {
            Err(ApiError::SyncInactive)
        }
    }
}

impl FromRequestParts<AppState> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        Authenticated::of(identify(parts, state).await?, state).await
    }
}

/// Checks the token. From then on, a long request head counts against its user's memory.
async fn identify(parts: &Parts, state: &AppState) -> Result<Identity, ApiError> {
    let identity = state.auth.check(bearer(&parts.headers)?, address_of(&parts.extensions)).await?;
    if let Some(connection) = parts.extensions.get::<Connection>() {
        let budget = || state.unread.of(identity.user);
        let identified = connection.meter().identified(budget, state.config.queue_timeout_ms).await;
        identified.map_err(|_| {
            state.metrics.refused.with_label_values(&["unread_bytes"]).inc();
            ApiError::Busy
        })?;
    }
    Ok(identity)
}

/// The path of the stream of all apps, and of pushes to an app named `stream`.
pub(super) const ALL_APPS_STREAM: &str = "/sync/stream";
const APP_OF_THAT_PATH: &str = "stream";

/// The app named in the path, if there is one.
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
        // This route has no path parameters.
        Err(_) => return Ok((parts.uri.path() == ALL_APPS_STREAM).then(|| APP_OF_THAT_PATH.into())),
    };
    let Some((_, app)) = params.iter().find(|(name, _)| *name == "app") else {
        return Ok((parts.uri.path() == ALL_APPS_STREAM).then(|| APP_OF_THAT_PATH.into()));
    };
    let app = check_name(app, MAX_APP).map_err(|problem| ApiError::Name { name: "the app id", problem })?;
    Ok(Some(app.into()))
}

fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let header = all.next().and_then(|value| value.to_str().ok()).ok_or(AuthError::Missing)?;
    // A proxy in front of this may have checked another one.
    if all.next().is_some() {
        return Err(AuthError::Several);
    }
    match header.trim().split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(AuthError::Missing),
    }
}

/// Returns the device named by the `X-Client-Id` header; none if it is missing or empty.
///
/// Any name can be sent as UTF-8, either as it is or percent-encoded the way `encodeURIComponent` does it: an ASCII
/// header is decoded if the result is UTF-8. So a client whose name contains a `%` followed by two hexadecimal digits
/// has to encode it; a `%` elsewhere stands for itself.
pub(super) fn client_id(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, ApiError> {
    let Some(value) = headers.get("X-Client-Id") else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| ApiError::ClientHeader)?;
    if text.is_empty() {
        return Ok(None);
    }
    let client = match percent_decode_str(text).decode_utf8() {
        Ok(decoded) if text.is_ascii() => decoded,
        _ => Cow::Borrowed(text),
    };
    check_name(&client, MAX_CLIENT).map_err(|problem| ApiError::Name { name: "the client id", problem })?;
    Ok(Some(client))
}

/// Checks that a body is not compressed or otherwise encoded: its decoded size would have to be bounded as well.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|c| *c == b','));
    let is_none =
        |coding: &[u8]| coding.trim_ascii().is_empty() || coding.trim_ascii().eq_ignore_ascii_case(b"identity");
    if codings.all(is_none) { Ok(()) } else { Err(ApiError::Encoding) }
}

/// Returns the first value of a query parameter; none if it is missing or empty.
///
/// # Errors
/// It is not UTF-8.
pub(super) fn query<'a>(uri: &'a axum::http::Uri, name: &'static str) -> Result<Option<Cow<'a, str>>, ApiError> {
    for pair in uri.query().unwrap_or_default().split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if read_component(key).is_ok_and(|key| key == name) {
            let value = read_component(value).map_err(|_| ApiError::Parameter(name))?;
            return Ok(Some(value).filter(|value| !value.is_empty()));
        }
    }
    Ok(None)
}

/// Decodes a name or a value as forms encode them.
fn read_component(text: &str) -> Result<Cow<'_, str>, Utf8Error> {
    let Some(spaces) = text.contains('+').then(|| text.replace('+', " ")) else {
        return percent_decode_str(text).decode_utf8();
    };
    percent_decode_str(&spaces).decode_utf8().map(|text| Cow::Owned(text.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn read(value: &[u8]) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert("X-Client-Id", HeaderValue::from_bytes(value).unwrap());
        client_id(&headers).unwrap().map(Cow::into_owned)
    }

    #[test]
    fn a_device_s_name_without_encoded_characters_is_read_as_it_is() {
        for plain in ["chrome-tab-abc123", "50%", "%", "%zz", "%FF", "a b", "%c3%28", "100% a"] {
            assert_eq!(read(plain.as_bytes()).as_deref(), Some(plain));
        }
        assert_eq!(read(b""), None);
    }

    #[test]
    fn any_name_is_read_from_utf_8_and_from_what_is_percent_encoded() {
        for name in [
            "ü",
            "日本語 tab",
            "🍎%",
            "ü%20",
            " a",
            "a ",
            "a\nb",
            "\u{7f}",
            "\u{80}",
            "%ü",
            "my phone",
            "a%20b",
            "%41",
            "100%25",
            "a/b",
            "chrome-tab-abc123",
        ] {
            let encoded = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string();
            assert_eq!(read(encoded.as_bytes()).as_deref(), Some(name));
            assert_eq!(read(encoded.to_lowercase().as_bytes()).as_deref(), Some(name));
        }
        for name in ["ü", "日本語 tab", "🍎%", "ü%20", "%ü", "ü%C3%BC"] {
            assert_eq!(read(name.as_bytes()).as_deref(), Some(name));
        }
        let mut headers = HeaderMap::new();
        for refused in [&b"\xff"[..], b"\xfc", b"a\xc3", b"%00", b"%C3%BC%00"] {
            headers.insert("X-Client-Id", HeaderValue::from_bytes(refused).unwrap());
            assert!(client_id(&headers).is_err(), "{refused:?}");
        }
    }
}
