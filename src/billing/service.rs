//! The client of the credits service.
//!
//! Separate from the issuer's client, whose URLs cannot contain a user named `..`.

use crate::config::Config;
use axum::http::header::{ACCEPT_ENCODING, AUTHORIZATION};
use axum::http::{HeaderValue, Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use url::{Position, Url};

/// Maximum bytes of a response.
const MAX_BYTES: usize = 64 << 10;
const PATH: &str = "/api/v1/internal/sync/status/";

/// The reason that there is no answer for a user.
#[derive(Debug, thiserror::Error)]
pub(super) enum CreditsError {
    #[error("cannot query the credits service")]
    Send(#[from] hyper_util::client::legacy::Error),
    #[error("the credits service did not answer in time")]
    NotInTime,
    #[error("the credits service answered {0}")]
    Status(StatusCode),
    #[error("the credits service's answer could not be received, or is larger than {MAX_BYTES} bytes")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the credits service's answer could not be read")]
    Parse(#[from] serde_json::Error),
    #[error("the credits service's URL cannot have a path appended")]
    Address(#[from] axum::http::Error),
}

/// The client could not be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up TLS")]
pub struct TlsError(#[from] rustls::Error);

/// A client of the credits service.
#[derive(Debug)]
pub(super) struct CreditsService {
    http: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    /// Scheme, host, port and path, without a trailing slash.
    base: String,
    /// The user and password from its URL.
    authorization: Option<HeaderValue>,
    key: HeaderValue,
    timeout: Duration,
}

#[derive(Deserialize)]
struct Status {
    active: bool,
}

impl CreditsService {
    pub(super) fn new(config: &Config) -> Result<CreditsService, TlsError> {
        let url = &config.billing.mana_credits_url;
        let origin = format!("{}://{}", url.scheme(), &url[Position::BeforeHost..Position::AfterPort]);
        Ok(CreditsService {
            http: Client::builder(TokioExecutor::new()).build(connector()?),
            base: format!("{origin}{}", url.path().trim_end_matches('/')),
            authorization: authorization(url),
            key: config.billing.mana_service_key.clone(),
            timeout: config.billing.billing_timeout_ms,
        })
    }

    /// Returns true if this user's sync is active, or if the service does not know the user.
    pub(super) async fn is_active(&self, user: &str) -> Result<bool, CreditsError> {
        tokio::time::timeout(self.timeout, self.ask(user)).await.unwrap_or(Err(CreditsError::NotInTime))
    }

    async fn ask(&self, user: &str) -> Result<bool, CreditsError> {
        // Everything but letters and digits is encoded, so any user id is a single path segment.
        let user = utf8_percent_encode(user, NON_ALPHANUMERIC);
        // Without this header, any encoding would be acceptable.
        let mut request = Request::get(format!("{}{PATH}{user}", self.base))
            .header("X-Service-Key", self.key.clone())
            .header(ACCEPT_ENCODING, "identity");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let answer = self.http.request(request.body(Empty::new())?).await?;
        match answer.status() {
            // The service works and does not know this user: no reason to stop the user's sync, or to consider the
            // service failed.
            StatusCode::NOT_FOUND => return Ok(true),
            status if status.is_success() => {}
            // Redirects too: no other host must get our key.
            status => return Err(CreditsError::Status(status)),
        }
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await.map_err(CreditsError::Body)?;
        let status: Status = serde_json::from_slice(&body.to_bytes())?;
        Ok(status.active)
    }
}

fn connector() -> Result<HttpsConnector<HttpConnector>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    Ok(hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http))
}

fn authorization(url: &Url) -> Option<HeaderValue> {
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
    if user.is_empty() && password.is_empty() {
        return None;
    }
    let credentials = STANDARD.encode([&user[..], b":", &password].concat());
    let mut value = HeaderValue::try_from(format!("Basic {credentials}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
