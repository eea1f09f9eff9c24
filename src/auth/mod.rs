//! Who is calling: EdDSA tokens, checked with the keys that the issuer publishes.

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
use jsonwebtoken::{Algorithm, Validation};
pub use jwks::JwksError;
use keys::KeySource;
use moka::future::Cache;
pub use problem::TokenProblem;
pub use refused::{RefusedTokens, TooManyRefused};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// How long a token that was checked is taken as checked, while the issuer's keys stay the same. Checking a signature
/// costs more than everything else that a small push costs here.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Tokens that are remembered, at most.
const MAX_REMEMBERED: u64 = 100_000;

/// Characters of a key's id that are written to the log: it is whatever the client sent.
const MAX_LOGGED_KID: usize = 64;

/// How far ahead of our clock a token's `nbf` may be: the issuer's clock is not ours.
const NOT_BEFORE_LEEWAY: f64 = 60.0;
/// Most bytes of a user's id (`sub`).
const MAX_USER: usize = 255;
/// Most bytes of a token's id (`jti`) by which it can be refused.
pub const MAX_TOKEN_ID: usize = 255;

/// A user whose token was checked.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user, as the token spells it.
    pub user_id: Arc<str>,
    /// The key of the user.
    pub user: UserKey,
    /// When the token expires.
    pub expires: SystemTime,
    /// The token's id (`jti`), if it has one of at most 255 bytes.
    pub token_id: Option<Arc<str>>,
}

impl Identity {
    /// How long the token is still good.
    pub fn remaining(&self, clock: &Clock) -> Duration {
        self.expires.duration_since(clock.now()).unwrap_or_default()
    }
}

/// Why a token was not accepted. The messages are for the client.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// There is no token.
    #[error("send a token: Authorization: Bearer <jwt>")]
    Missing,
    /// The token is not valid, and why.
    #[error("the token is not valid: {0}")]
    Invalid(TokenProblem),
    /// The token has expired; get a fresh one.
    #[error("the token has expired; get a fresh one")]
    Expired,
    /// The keys are not there to check it with.
    #[error("tokens cannot be checked at the moment; try again")]
    Unavailable(#[source] JwksError),
}

impl AuthError {
    /// What it is counted as.
    pub fn refusal(&self) -> Refusal {
        match self {
            AuthError::Missing => Refusal::TokenMissing,
            AuthError::Invalid(problem) => problem.refusal(),
            AuthError::Expired => Refusal::TokenExpired,
            AuthError::Unavailable(_) => Refusal::KeysUnavailable,
        }
    }
}

/// Checks tokens. Keeps to what the protocol says: EdDSA, a `kid`, `exp`, a `sub` of 1 to 255 bytes, no `crit`; issuer
/// and audience where configured.
#[derive(Debug)]
pub struct Authenticator {
    keys: KeySource,
    validation: Validation,
    /// By the token's digest: what was checked a moment ago and was good, and the generation of the keys.
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
    /// Whatever it is: only a text can be refused by an operator, and anything else is no reason to refuse the token.
    #[serde(default)]
    jti: serde_json::Value,
}

impl Authenticator {
    /// Keys are fetched by [`Self::fetching`].
    pub fn new(config: &Config, http: reqwest::Client, metrics: Arc<Metrics>, clock: Clock) -> Authenticator {
        let mut validation = Validation::new(Algorithm::EdDSA);
        let mut required = vec!["exp", "sub"];
        // By our own clock, in `identity`.
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

    /// The tokens that operators have refused.
    pub fn refused(&self) -> &RefusedTokens {
        &self.refused
    }

    /// Whether an operator has refused the token of this identity.
    pub fn refuses(&self, identity: &Identity) -> bool {
        identity.token_id.as_deref().is_some_and(|id| self.refused.contains(id))
    }

    /// Whether the issuer's keys were ever fetched. It stays so, however old they are.
    pub fn has_keys(&self) -> bool {
        self.keys.is_filled()
    }

    /// The background task that keeps the issuer's keys at hand, until told to stop. To be run once.
    pub fn fetching(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        self.keys.fetching(stop)
    }

    /// Checks a token. May wait a few seconds for a key that is not at hand; `from`: where it comes from, if that is known.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] where it cannot be told yet whether the token is good; everything else is for good.
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

    /// Writes which check a token failed, and which key it names, once in a while: that all are refused for one reason
    /// is a mistake in the settings more often than in all tokens.
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
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Invalid(TokenProblem::Malformed))?;
        if has_critical_extensions(token) {
            return Err(AuthError::Invalid(TokenProblem::Critical));
        }
        if header.alg != Algorithm::EdDSA {
            return Err(AuthError::Invalid(TokenProblem::Algorithm));
        }
        let kid = header.kid.ok_or(AuthError::Invalid(TokenProblem::NoKey))?;
        let found = self.keys.get(&kid, from).await.map_err(AuthError::Unavailable)?;
        let found = found.ok_or(AuthError::Invalid(TokenProblem::UnknownKey))?;
        let decoded = jsonwebtoken::decode::<Claims>(token, &found.key, &self.validation);
        let claims = decoded.map_err(|error| refusal(&error)).inspect_err(|error| {
            if matches!(error, AuthError::Invalid(TokenProblem::Signature)) {
                self.keys.doubt();
            }
        })?;
        Ok((found.generation, identity(claims.claims, self.clock.now())?))
    }
}

/// Whether a token's header has `crit`, whatever is in it: no extension is known here, and an empty list is not allowed
/// (RFC 7515, section 4.1.11). What cannot be read counts as one that has.
fn has_critical_extensions(token: &str) -> bool {
    let header = token.split('.').next().unwrap_or_default();
    let header = URL_SAFE_NO_PAD.decode(header).ok();
    let members: Option<HashMap<String, IgnoredAny>> = header.and_then(|json| serde_json::from_slice(&json).ok());
    members.is_none_or(|members| members.contains_key("crit"))
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
    // Far beyond any token's life, and well within what a SystemTime holds.
    let life = Duration::try_from_secs_f64(claims.exp - now).unwrap_or(Duration::MAX).min(Duration::from_secs(1 << 32));
    let token_id = claims.jti.as_str().filter(|id| (1..=MAX_TOKEN_ID).contains(&id.len())).map(Arc::from);
    let (user, expires) = (UserKey::of(&claims.sub), present + life);
    Ok(Identity { user, user_id: claims.sub.into(), expires, token_id })
}

fn refusal(error: &jsonwebtoken::errors::Error) -> AuthError {
    TokenProblem::of(error).map_or(AuthError::Expired, AuthError::Invalid)
}
