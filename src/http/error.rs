//! Every error that a client can get: its status, its code, and what to do about it.
//!
//! A 5xx reveals nothing internal; the cause goes to the log.

use crate::auth::AuthError;
use crate::limits::{LimitError, LimitReached};
use crate::protocol::cursor::CursorError;
use crate::protocol::merge::UnreadableChange;
use crate::protocol::push::{NameProblem, PushError};
use crate::session::JoinError;
use crate::session::stream::OpenError;
use crate::store::StoreError;
use crate::telemetry::refusals::Refusal;
use crate::telemetry::throttle::Throttle;
use axum::http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::error::Error;
use std::fmt;

/// The reasons why a request was not answered 2xx.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The caller is not authenticated.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Sync is not active for this user; activate it and try again.
    #[error("sync is not active for this user; activate it and try again")]
    SyncInactive,
    /// The push cannot be stored.
    #[error(transparent)]
    Push(#[from] PushError),
    /// A name in the path or the query cannot be used.
    #[error("{name} {problem}")]
    Name {
        /// The kind of name.
        name: &'static str,
        /// The problem with it.
        problem: NameProblem,
    },
    /// A parameter is missing.
    #[error("the parameter {0} is missing or empty")]
    MissingParameter(&'static str),
    /// Too many collections are asked for.
    #[error("the parameter collections may name at most {0} collections; name fewer, or none to get all of them")]
    TooManyCollections(usize),
    /// Too many apps or collections are asked for.
    #[error(
        "the parameter apps may name at most {apps} apps, {of_an_app} tables of each and {tables} in total; name fewer, or \
         no tables to get all of an app"
    )]
    TooManyApps {
        /// Maximum number of apps on one stream.
        apps: usize,
        /// Maximum number of collections of one app.
        of_an_app: usize,
        /// Maximum number of collections of all apps together.
        tables: usize,
    },
    /// The cursor cannot be read.
    #[error("since {0}")]
    Since(#[from] CursorError),
    /// A query parameter is not UTF-8.
    #[error("the parameter {0} must be UTF-8, percent-encoded")]
    Parameter(&'static str),
    /// A header is not plain text.
    #[error("the header {0} must be plain text")]
    Header(&'static str),
    /// The header X-Client-Id must be UTF-8, plain or percent-encoded.
    #[error("the header X-Client-Id must be UTF-8, plain or percent-encoded")]
    ClientHeader,
    /// The body is larger than this many bytes.
    #[error("the body is larger than {0} bytes; push in smaller parts")]
    TooLarge(usize),
    /// The body must be sent with Content-Type: application/json.
    #[error("the body must be sent with Content-Type: application/json")]
    MediaType,
    /// The body must be sent without Content-Encoding: compressed bodies are not accepted.
    #[error("the body must be sent without Content-Encoding: compressed bodies are not accepted")]
    Encoding,
    /// The body did not arrive in time.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// The body ended early.
    #[error("the body ended early")]
    BodyBroken,
    /// Not found; see the documentation for the endpoints.
    #[error("not found; see the documentation for the endpoints")]
    NotFound,
    /// This endpoint does not support this method.
    #[error("this endpoint does not support this method")]
    MethodNotAllowed,
    /// This is a WebSocket endpoint: connect with Upgrade: websocket, version 13.
    #[error("this is a WebSocket endpoint: connect with Upgrade: websocket, version 13")]
    UpgradeRequired,
    /// The server is busy; try again.
    #[error("the server is busy; try again")]
    Busy,
    /// Your address has the maximum number of connections here; close some.
    #[error("your address has the maximum number of connections here; close some")]
    TooManyFromAddress,
    /// A limit of the user is reached.
    #[error(transparent)]
    Limit(#[from] LimitReached),
    /// The replica is not ready, and why.
    #[error("not ready: {0}")]
    NotReady(String),
    /// The session cannot begin.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The store cannot do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The metrics could not be written.
    #[error("the metrics could not be written")]
    Metrics(#[from] prometheus::Error),
}

impl From<UnreadableChange> for ApiError {
    fn from(error: UnreadableChange) -> Self {
        ApiError::Store(error.into())
    }
}

impl From<LimitError> for ApiError {
    fn from(error: LimitError) -> Self {
        match error {
            LimitError::Reached(reached) => reached.into(),
            LimitError::Busy => ApiError::Busy,
            LimitError::Store(error) => error.into(),
        }
    }
}

impl From<OpenError> for ApiError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Join(error) => error.into(),
            OpenError::Store(error) => error.into(),
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    message: &'a str,
}

/// Seconds after which a client may try again, unless a limit says otherwise.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");
/// Maximum length of a message in bytes: it may quote the client's input.
const MAX_MESSAGE: usize = 1 << 10;

impl ApiError {
    /// The table: the status and code of every error.
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            ApiError::Auth(AuthError::Unavailable(_)) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            ApiError::Auth(_) => (StatusCode::UNAUTHORIZED, "unauthorized"),
            ApiError::SyncInactive => (StatusCode::PAYMENT_REQUIRED, "sync_inactive"),
            ApiError::Push(_)
            | ApiError::Name { .. }
            | ApiError::MissingParameter(_)
            | ApiError::TooManyCollections(_)
            | ApiError::TooManyApps { .. }
            | ApiError::Since(_)
            | ApiError::Parameter(_)
            | ApiError::Header(_)
            | ApiError::ClientHeader
            | ApiError::BodyBroken => (StatusCode::BAD_REQUEST, "bad_request"),
            ApiError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            ApiError::MediaType | ApiError::Encoding => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            ApiError::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            ApiError::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            ApiError::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            ApiError::UpgradeRequired => (StatusCode::UPGRADE_REQUIRED, "upgrade_required"),
            ApiError::Store(StoreError::Unstorable(_)) => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable"),
            ApiError::Store(StoreError::Unavailable(_) | StoreError::Dropped { .. } | StoreError::Hidden)
            | ApiError::Join(JoinError::Begin(_)) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            ApiError::Join(JoinError::TooManySessions) | ApiError::TooManyFromAddress => {
                (StatusCode::TOO_MANY_REQUESTS, "too_many_connections")
            }
            ApiError::Store(
                StoreError::TurnTimeout
                | StoreError::ReadTimeout(_)
                | StoreError::Contended
                | StoreError::NeedsMemory(_),
            ) => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            ApiError::Limit(reached) => (StatusCode::TOO_MANY_REQUESTS, reached.code()),
            ApiError::Busy | ApiError::Join(JoinError::NoRoomForNames) => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            ApiError::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
            ApiError::Store(_) | ApiError::Metrics(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// True if the fault is the server's, so that the same request may succeed later.
    pub(super) fn is_ours(&self) -> bool {
        self.status().0.is_server_error()
    }

    /// The label under which this error is counted.
    fn refusal(&self, status: StatusCode) -> Refusal {
        match self {
            ApiError::Auth(error) => error.refusal(),
            ApiError::SyncInactive => Refusal::SyncInactive,
            ApiError::NotReady(_) => Refusal::NotReady,
            ApiError::Store(StoreError::Unavailable(_) | StoreError::Dropped { .. } | StoreError::Hidden)
            | ApiError::Join(JoinError::Begin(_)) => Refusal::DatabaseUnavailable,
            _ if status == StatusCode::TOO_MANY_REQUESTS => Refusal::UserLimit,
            _ if status == StatusCode::SERVICE_UNAVAILABLE => Refusal::Busy,
            _ if status.is_server_error() => Refusal::Internal,
            _ => Refusal::BadRequest,
        }
    }

    /// The message for the client.
    fn message(&self) -> String {
        match self {
            ApiError::Store(StoreError::Unstorable(_)) => {
                "a value cannot be stored: a number out of range, or a text with an invalid character".to_owned()
            }
            ApiError::Store(
                StoreError::Unavailable(_)
                | StoreError::Dropped { .. }
                | StoreError::Hidden
                | StoreError::TurnTimeout
                | StoreError::ReadTimeout(_)
                | StoreError::Contended,
            )
            | ApiError::Join(JoinError::Begin(_)) => "the server cannot do this at the moment; try again".to_owned(),
            ApiError::Store(_) | ApiError::Metrics(_) => {
                "something went wrong on the server; trying again may help".to_owned()
            }
            told => shortened(told),
        }
    }

    /// The value of `Retry-After`.
    fn retry_after(&self) -> HeaderValue {
        match self {
            ApiError::Limit(reached) => reached.retry_after().into(),
            _ => RETRY_SECONDS,
        }
    }

    /// The log throttle for refusals of this kind, which are not all logged: `mana_sync_http_responses_total` counts
    /// them. It is per process, because an error does not know which replica answers with it.
    fn refusal_line(&self) -> &'static Throttle {
        static WITHOUT_KEYS: Throttle = Throttle::new();
        static WITHOUT_DATABASE: Throttle = Throttle::new();
        static BUSY: Throttle = Throttle::new();
        match self {
            ApiError::Auth(_) => &WITHOUT_KEYS,
            ApiError::Store(StoreError::Unavailable(_) | StoreError::Dropped { .. } | StoreError::Hidden)
            | ApiError::Join(JoinError::Begin(_)) => &WITHOUT_DATABASE,
            _ => &BUSY,
        }
    }

    fn log(&self, status: StatusCode) {
        let error = self as &dyn Error;
        match status {
            StatusCode::INTERNAL_SERVER_ERROR => {
                // One log that cannot be read, and a client that polls it, is enough for any number of them.
                static FAILED: Throttle = Throttle::new();
                if let Some(unwritten) = FAILED.is_due() {
                    tracing::error!(error, unwritten, "a request failed");
                }
            }
            StatusCode::SERVICE_UNAVAILABLE if matches!(self, ApiError::NotReady(_)) => {}
            StatusCode::SERVICE_UNAVAILABLE => {
                if let Some(unwritten) = self.refusal_line().is_due() {
                    tracing::warn!(error, unwritten, "a request was refused");
                }
            }
            _ => tracing::debug!(%status, "a request was refused"),
        }
    }
}

/// Formats at most [`MAX_MESSAGE`] bytes of a text; no more than that is ever held in memory.
fn shortened(text: impl fmt::Display) -> String {
    struct Start(String);
    impl fmt::Write for Start {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = MAX_MESSAGE.saturating_sub(self.0.len());
            let end = text.floor_char_boundary(room);
            self.0.push_str(&text[..end]);
            if end < text.len() { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut start = Start(String::new());
    match fmt::write(&mut start, format_args!("{text}")) {
        Ok(()) => start.0,
        Err(_) => start.0 + "…",
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.status();
        self.log(status);
        let body = Body { error: code, message: &self.message() };
        // Two strings always serialize.
        let body = serde_json::to_string(&body).unwrap_or_default();
        let mut response =
            (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response();
        response.extensions_mut().insert(self.refusal(status));
        let told = |headers: &'static [(HeaderName, &'static str)]| {
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
        };
        response.headers_mut().extend(told(match (&self, status) {
            (_, StatusCode::UNAUTHORIZED) => &[(WWW_AUTHENTICATE, "Bearer")],
            // RFC 9110, section 7.8: a sender of Upgrade must list it in Connection.
            (_, StatusCode::UPGRADE_REQUIRED) => &[(UPGRADE, "websocket"), (CONNECTION, "upgrade")],
            // RFC 9110, section 15.5.16.
            (ApiError::Encoding, _) => &[(ACCEPT_ENCODING, "identity")],
            _ => &[],
        }));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(RETRY_AFTER, self.retry_after());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_quotes_no_more_than_it_has_to() {
        assert_eq!(shortened("short"), "short");
        let long = shortened(format_args!("the field {:?} is wrong", "ü".repeat(5 << 20)));
        assert!(long.len() <= MAX_MESSAGE + "…".len() && long.starts_with("the field \"üü") && long.ends_with('…'));
    }
}
