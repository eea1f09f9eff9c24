//! Authentication: EdDSA tokens, checked with the keys that the issuer publishes.

mod jwks;
mod keys;
mod problem;
mod refused;

use crate::clock::Clock;
use crate::config::Config;
use crate::protocol::UserKey;
use crate::telemetry::Metrics;
use crate::telemetry::refusals::Refusal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
pub use jwks::JwksError;
use jwks::Key;
use keys::KeySource;
use moka::future::Cache;
pub use problem::TokenProblem;
pub use refused::{MAX_REFUSED, RefusedTokens, TooManyRefused};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// How long a checked token stays cached, as long as the issuer's keys are unchanged. Checking a signature costs more
/// here than everything else in a small push.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Maximum number of tokens cached.
const MAX_REMEMBERED: u64 = 100_000;

/// Maximum characters of a key id in the log: it is whatever the client sent.
const MAX_LOGGED_KID: usize = 64;

/// How far ahead of our clock a token's `nbf` may be, to allow for the difference from the issuer's clock.
const NOT_BEFORE_LEEWAY: f64 = 60.0;
/// Maximum bytes of a user id (`sub`).
const MAX_USER: usize = 255;
/// Maximum bytes of a token id (`jti`) by which a token can be refused.
pub const MAX_TOKEN_ID: usize = 255;

/// A user whose token was checked.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user id, as spelled in the token.
    pub user_id: Arc<str>,
    /// The user's key.
    pub user: UserKey,
    /// When the token expires.
    pub expires: SystemTime,
    /// The token's id (`jti`), if it has one of at most 255 bytes.
    pub token_id: Option<Arc<str>>,
}

impl Identity {
    /// Returns how long the token is still valid.
    pub fn remaining(&self, clock: &Clock) -> Duration {
        self.expires.duration_since(clock.now()).unwrap_or_default()
    }
}

/// The reason that a token was not accepted. The messages are for the client.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// There is no token.
    #[error("send a token: Authorization: Bearer <jwt>")]
    Missing,
    /// There are several Authorization headers.
    #[error("send one Authorization header, not several")]
    Several,
    /// The token is invalid.
    #[error("the token is not valid: {0}")]
    Invalid(TokenProblem),
    /// The token has expired; get a fresh one.
    #[error("the token has expired; get a fresh one")]
    Expired,
    /// There are no keys to check the token with.
    #[error("tokens cannot be checked at the moment; try again")]
    Unavailable(#[source] JwksError),
}

impl AuthError {
    /// Returns the reason under which it is counted.
    pub fn refusal(&self) -> Refusal {
        match self {
            AuthError::Missing => Refusal::TokenMissing,
            AuthError::Several => Refusal::TokenMalformed,
            AuthError::Invalid(problem) => problem.refusal(),
            AuthError::Expired => Refusal::TokenExpired,
            AuthError::Unavailable(_) => Refusal::KeysUnavailable,
        }
    }
}

/// Checks tokens as the protocol specifies: EdDSA, a `kid`, `exp`, a `sub` of 1 to 255 bytes, no `crit`; issuer and
/// audience if configured.
#[derive(Debug)]
pub struct Authenticator {
    keys: KeySource,
    validation: Validation,
    /// Recently checked valid tokens, by digest, with the generation of the keys.
    remembered: Cache<[u8; 32], (u64, Identity)>,
    refused: RefusedTokens,
    metrics: Arc<Metrics>,
    clock: Clock,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
    /// Any JSON value, unless it has to be a certain one.
    #[serde(default)]
    iss: serde_json::Value,
    /// Any JSON value: an operator can only refuse a text, and any other type is no reason to reject the token.
    #[serde(default)]
    jti: serde_json::Value,
}

impl Authenticator {
    /// Creates an authenticator. Its keys are fetched by [`Self::fetching`].
    pub fn new(config: &Config, http: reqwest::Client, metrics: Arc<Metrics>, clock: Clock) -> Authenticator {
        let mut validation = Validation::new(Algorithm::EdDSA);
        let mut required = vec!["exp", "sub"];
        // Checked in `identity`, by our own clock.
        validation.validate_exp = false;
        validation.validate_aud = config.auth.jwt_audience.is_some();
        if let Some(audience) = &config.auth.jwt_audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        if let Some(issuer) = &config.auth.jwt_issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        let remembered = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBERED).build();
        let keys = KeySource::new(config, http, metrics.clone(), clock.clone());
        let refused = RefusedTokens::new(clock.clone());
        Authenticator { keys, validation, remembered, refused, metrics, clock }
    }

    /// Returns the tokens that operators have refused.
    pub fn refused(&self) -> &RefusedTokens {
        &self.refused
    }

    /// Returns true if an operator has refused the token of this identity.
    pub fn refuses(&self, identity: &Identity) -> bool {
        identity.token_id.as_deref().is_some_and(|id| self.refused.contains(id))
    }

    /// Returns true if the issuer's keys were ever fetched, however old they are.
    pub fn has_keys(&self) -> bool {
        self.keys.is_filled()
    }

    /// Keeps the issuer's keys up to date in the background, until told to stop. Must be run once.
    pub fn fetching(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        self.keys.fetching(stop)
    }

    /// Checks a token. May wait a few seconds for a missing key. `from`: the client's address, if known.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] if it cannot be determined yet whether the token is valid; all others are final.
    pub async fn check(&self, token: &str, from: Option<IpAddr>) -> Result<Identity, AuthError> {
        let checked = self.check_or_remember(token, from).await;
        let checked = checked.and_then(|identity| match self.refuses(&identity) {
            true => Err(AuthError::Invalid(TokenProblem::Refused)),
            false => Ok(identity),
        });
        let outcome = match &checked {
            Ok(_) => "ok",
            Err(AuthError::Unavailable(_)) => "unavailable",
            Err(error) => {
                self.log(token, error);
                "refused"
            }
        };
        self.metrics.auth.with_label_values(&[outcome]).inc();
        checked
    }

    /// Logs which check a token failed, and the key it names, rate-limited: if all tokens are refused for one reason,
    /// the cause is more often a wrong setting than the tokens.
    fn log(&self, token: &str, error: &AuthError) {
        let reason = error.refusal();
        let Some(unwritten) = self.metrics.refusals.line_due(reason) else { return };
        let kid = jsonwebtoken::decode_header(token).ok().and_then(|header| header.kid);
        let kid = kid.map(|kid| kid.chars().take(MAX_LOGGED_KID).collect::<String>());
        tracing::info!(reason = reason.label(), kid, unwritten, "tokens are refused: {error}");
    }

    async fn check_or_remember(&self, token: &str, from: Option<IpAddr>) -> Result<Identity, AuthError> {
        let digest = <[u8; 32]>::from(Sha256::digest(token));
        if let Some((generation, identity)) = self.remembered.get(&digest).await
            && self.keys.generation() == Some(generation)
        {
            return if identity.remaining(&self.clock).is_zero() { Err(AuthError::Expired) } else { Ok(identity) };
        }
        let (generation, identity) = self.decode(token, from).await?;
        self.remembered.insert(digest, (generation, identity.clone())).await;
        Ok(identity)
    }

    async fn decode(&self, token: &str, from: Option<IpAddr>) -> Result<(u64, Identity), AuthError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Invalid(problem_of_header(token)))?;
        if has_critical_extensions(token) {
            return Err(AuthError::Invalid(TokenProblem::Critical));
        }
        if header.alg != Algorithm::EdDSA {
            return Err(AuthError::Invalid(TokenProblem::Algorithm));
        }
        let kid = header.kid.ok_or(AuthError::Invalid(TokenProblem::NoKey))?;
        let found = self.keys.get(&kid, from).await.map_err(AuthError::Unavailable)?;
        let found = found.ok_or(AuthError::Invalid(TokenProblem::UnknownKey))?;
        let claims = self.claims(token, &found.keys).map_err(|error| refusal(&error)).inspect_err(|error| {
            if matches!(error, AuthError::Invalid(TokenProblem::Signature)) {
                self.keys.request_refresh();
            }
        })?;
        // A list that has ours in it has passed so far, but only the audience may be one (RFC 7519, section 4.1).
        if self.validation.iss.is_some() && !claims.iss.is_string() {
            return Err(AuthError::Invalid(TokenProblem::Issuer));
        }
        Ok((found.generation, identity(claims, self.clock.now())?))
    }

    /// Returns the claims of a token that one of these keys has signed. There is at least one.
    fn claims(&self, token: &str, keys: &[Key]) -> Result<Claims, jsonwebtoken::errors::Error> {
        let mut outcome = Err(ErrorKind::InvalidSignature.into());
        for key in keys {
            outcome = jsonwebtoken::decode::<Claims>(token, &key.decoding, &self.validation);
            if !outcome.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::InvalidSignature)) {
                break;
            }
        }
        outcome.map(|decoded| decoded.claims)
    }
}

/// Returns the members of a token's header, if it is an object.
fn header_members<T: DeserializeOwned>(token: &str) -> Option<HashMap<String, T>> {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap_or_default()).ok()?;
    serde_json::from_slice(&header).ok()
}

/// Returns true if a token's header has `crit`, whatever its value: no extension is supported here, and an empty list
/// is not allowed (RFC 7515, section 4.1.11). An unreadable header counts as having it.
fn has_critical_extensions(token: &str) -> bool {
    header_members::<IgnoredAny>(token).is_none_or(|members| members.contains_key("crit"))
}

/// Returns the problem with a token whose header cannot be read: perhaps only that its algorithm is an unknown one.
fn problem_of_header(token: &str) -> TokenProblem {
    let algorithm = header_members::<serde_json::Value>(token).and_then(|mut members| members.remove("alg"));
    match algorithm {
        Some(serde_json::Value::String(name)) if name != "EdDSA" => TokenProblem::Algorithm,
        _ => TokenProblem::Malformed,
    }
}

fn identity(claims: Claims, present: SystemTime) -> Result<Identity, AuthError> {
    if claims.sub.is_empty() || claims.sub.contains('\0') {
        return Err(AuthError::Invalid(TokenProblem::NoUser));
    }
    if claims.sub.len() > MAX_USER {
        return Err(AuthError::Invalid(TokenProblem::LongUser));
    }
    let now = present.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    if claims.nbf.is_some_and(|not_before| not_before > now + NOT_BEFORE_LEEWAY) {
        return Err(AuthError::Invalid(TokenProblem::NotYetValid));
    }
    if claims.exp <= now {
        return Err(AuthError::Expired);
    }
    // Far longer than any token is valid, and well within the range of SystemTime.
    let life = Duration::try_from_secs_f64(claims.exp - now).unwrap_or(Duration::MAX).min(Duration::from_secs(1 << 32));
    let token_id = claims.jti.as_str().filter(|id| (1..=MAX_TOKEN_ID).contains(&id.len())).map(Arc::from);
    let (user, expires) = (UserKey::of(&claims.sub), present + life);
    Ok(Identity { user, user_id: claims.sub.into(), expires, token_id })
}

fn refusal(error: &jsonwebtoken::errors::Error) -> AuthError {
    TokenProblem::of(error).map_or(AuthError::Expired, AuthError::Invalid)
}
