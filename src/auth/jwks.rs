//! The issuer's key set: fetching and parsing it.

use jsonwebtoken::DecodingKey;
use reqwest::StatusCode;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Timeout of requests to the issuer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum bytes of a key set.
const MAX_BYTES: usize = 1 << 20;

/// The reason that there is no key to check a token with.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JwksError {
    /// The issuer's keys could not be fetched.
    #[error("the issuer's keys could not be fetched")]
    Fetch(#[source] Arc<reqwest::Error>),
    /// The issuer responded with something other than its keys.
    #[error("the issuer answered {0} when asked for its keys")]
    Status(StatusCode),
    /// The issuer's keys could not be read.
    #[error("the issuer's keys could not be read")]
    Parse(#[source] Arc<serde_json::Error>),
    /// The key set is larger than the maximum.
    #[error("the issuer's key set is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// The issuer's key set has no Ed25519 key.
    #[error("the issuer's key set has no Ed25519 key")]
    NoKeys,
    /// The issuer's keys did not arrive in time.
    #[error("the issuer's keys did not arrive in time")]
    NotInTime,
    /// Too many requests are waiting for the issuer's keys.
    #[error("too many requests wait for the issuer's keys")]
    TooManyWaiting,
}

/// A key, and its public part as the issuer wrote it.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) public: String,
    pub(super) decoding: Arc<DecodingKey>,
}

/// The keys by id (`kid`).
pub(super) type Keys = HashMap<String, Key>;

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Ed25519Jwk {
    kid: String,
    kty: String,
    crv: String,
    x: String,
}

/// Fetches the issuer's keys. `http` must not follow redirects: whoever the issuer redirects to is not the issuer.
pub(super) async fn fetch(http: &reqwest::Client, url: &Url) -> Result<Keys, JwksError> {
    // The URL is a setting, and settings are not logged.
    let failed = |error: reqwest::Error| JwksError::Fetch(Arc::new(error.without_url()));
    let mut answer = http.get(url.clone()).timeout(TIMEOUT).send().await.map_err(failed)?;
    if !answer.status().is_success() {
        return Err(JwksError::Status(answer.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_BYTES {
            return Err(JwksError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    let set: JwkSet = serde_json::from_slice(&body).map_err(|error| JwksError::Parse(Arc::new(error)))?;
    // Other types of keys are ignored: the set may serve other services too.
    let keys: Keys = set.keys.into_iter().filter_map(ed25519_key).collect();
    // An issuer without any key can sign nothing. It probably has just started, or is misconfigured.
    if keys.is_empty() { Err(JwksError::NoKeys) } else { Ok(keys) }
}

fn ed25519_key(jwk: serde_json::Value) -> Option<(String, Key)> {
    let jwk: Ed25519Jwk = serde_json::from_value(jwk).ok()?;
    if jwk.kty != "OKP" || jwk.crv != "Ed25519" {
        return None;
    }
    let decoding = Arc::new(DecodingKey::from_ed_components(&jwk.x).ok()?);
    Some((jwk.kid, Key { public: jwk.x, decoding }))
}
