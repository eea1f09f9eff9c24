//! Every error of the admin port: its status, its code, and what to do about it.

use super::connection::ConnectionError;
use crate::protocol::push::NameProblem;
use crate::store::inspect::InspectError;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::error::Error;

/// The reasons why a request to the admin port was not answered 2xx.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("send the admin token: Authorization: Bearer <ADMIN_TOKEN>")]
    Unauthorized,
    #[error("this form does not belong to this login; reload the page")]
    Forged,
    #[error("not found; /api/v1/openapi.yaml lists the endpoints")]
    NotFound,
    #[error("this endpoint does not support this method")]
    MethodNotAllowed,
    #[error("no such record is stored")]
    NoRecord,
    #[error("no replica is named {0}")]
    NoReplica(String),
    #[error("the parameter {0} is missing or empty")]
    Missing(&'static str),
    #[error("{name} {problem}")]
    Name { name: &'static str, problem: NameProblem },
    #[error("{0}")]
    Invalid(&'static str),
    #[error("the body is invalid: {0}")]
    Body(serde_json::Error),
    #[error("the body must be sent with Content-Type: {0}")]
    MediaType(&'static str),
    #[error("the body is larger than {0} bytes, or incomplete")]
    TooLarge(usize),
    #[error("no replica did it: {0}")]
    NotDone(String),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error("an answer could not be encoded as JSON")]
    Json(#[from] serde_json::Error),
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    message: &'a str,
}

impl AdminError {
    /// The table: the status and code of every error.
    pub fn status(&self) -> (StatusCode, &'static str) {
        match self {
            AdminError::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            AdminError::Forged => (StatusCode::FORBIDDEN, "forbidden"),
            AdminError::NotFound | AdminError::NoReplica(_) | AdminError::NoRecord => {
                (StatusCode::NOT_FOUND, "not_found")
            }
            AdminError::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            AdminError::Missing(_) | AdminError::Name { .. } | AdminError::Invalid(_) | AdminError::Body(_) => {
                (StatusCode::BAD_REQUEST, "bad_request")
            }
            AdminError::MediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            AdminError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            AdminError::NotDone(_) => (StatusCode::CONFLICT, "not_done"),
            AdminError::Connection(_) | AdminError::Inspect(InspectError::Database(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
            AdminError::Inspect(_) | AdminError::Json(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// The message for the operator: it may name internal problems, but not their details.
    pub fn message(&self) -> String {
        match self {
            AdminError::Connection(_) | AdminError::Inspect(_) => format!("{self}; see the log"),
            told => told.to_string(),
        }
    }

    /// Logs errors that only we can fix.
    pub fn log(&self) {
        if self.status().0.is_server_error() {
            tracing::warn!(error = self as &dyn Error, "cannot answer an operator's query");
        }
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        self.log();
        let (status, code) = self.status();
        let body = Body { error: code, message: &self.message() };
        // Two strings always serialize.
        let body = serde_json::to_string(&body).unwrap_or_default();
        let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (status, json, body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
