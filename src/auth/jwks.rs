//! The issuer's key set: fetching and parsing it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use reqwest::StatusCode;
use reqwest::header::ACCEPT_ENCODING;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Timeout of requests to the issuer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum bytes of a key set.
const MAX_BYTES: usize = 1 << 20;
/// Bytes of an Ed25519 public key.
const KEY_BYTES: usize = 32;
/// Maximum number of keys with the same id: a token is checked with each of them.
const MAX_NAMESAKES: usize = 4;

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

/// The keys by id (`kid`). Some issuers give all of their keys the same id.
pub(super) type Keys = HashMap<String, Arc<[Key]>>;

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
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
}

impl Ed25519Jwk {
    /// True unless its issuer means it for something else than checking tokens (RFC 7517, sections 4.2 to 4.4).
    fn verifies(&self) -> bool {
        self.kty == "OKP"
            && self.crv == "Ed25519"
            // RFC 9864 gives the algorithm a second name.
            && self.alg.as_ref().is_none_or(|alg| alg == "EdDSA" || alg == "Ed25519")
            && self.purpose.as_ref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|operation| operation == "verify"))
    }
}

/// Fetches the issuer's keys. `http` must not follow redirects: whoever the issuer redirects to is not the issuer.
pub(super) async fn fetch(http: &reqwest::Client, url: &Url) -> Result<Keys, JwksError> {
    // The URL is a setting, and settings are not logged.
    let failed = |error: reqwest::Error| JwksError::Fetch(Arc::new(error.without_url()));
    // Without this header, any encoding would be acceptable.
    let request = http.get(url.clone()).header(ACCEPT_ENCODING, "identity").timeout(TIMEOUT);
    let mut answer = request.send().await.map_err(failed)?;
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
    let keys = by_id(set.keys);
    // An issuer without any key can sign nothing. It probably has just started, or is misconfigured.
    if keys.is_empty() { Err(JwksError::NoKeys) } else { Ok(keys) }
}

/// Returns the keys that tokens are checked with. Others are ignored: the set may serve other services too.
fn by_id(jwks: Vec<serde_json::Value>) -> Keys {
    let mut keys: HashMap<String, Vec<Key>> = HashMap::new();
    for (kid, key) in jwks.into_iter().filter_map(ed25519_key) {
        let namesakes = keys.entry(kid).or_default();
        if namesakes.len() < MAX_NAMESAKES {
            namesakes.push(key);
        }
    }
    keys.into_iter().map(|(kid, namesakes)| (kid, namesakes.into())).collect()
}

fn ed25519_key(jwk: serde_json::Value) -> Option<(String, Key)> {
    let jwk: Ed25519Jwk = serde_json::from_value(jwk).ok()?;
    let is_key = || URL_SAFE_NO_PAD.decode(&jwk.x).is_ok_and(|bytes| bytes.len() == KEY_BYTES);
    if !jwk.verifies() || !is_key() {
        return None;
    }
    let decoding = Arc::new(DecodingKey::from_ed_components(&jwk.x).ok()?);
    Some((jwk.kid, Key { public: jwk.x, decoding }))
}
