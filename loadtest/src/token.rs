//! Signs the tokens of test users with a private Ed25519 JWK, as the issuer of a real installation would.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The prefix of the 32-byte seed in the PKCS#8 v1 DER of an Ed25519 key (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The reasons why no token could be signed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file of the key cannot be read.
    #[error("cannot read the key file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The key is not a JWK with kty, crv, kid and d.
    #[error("the key is not a JWK with kty, crv, kid and d")]
    Shape(#[source] serde_json::Error),
    /// The key is not an Ed25519 key.
    #[error("the key must have kty OKP and crv Ed25519, not {kty} and {crv}")]
    Kind {
        /// Its `kty`.
        kty: String,
        /// Its `crv`.
        crv: String,
    },
    /// The member d of the key must be 32 bytes in unpadded base64url.
    #[error("the member d of the key must be 32 bytes in unpadded base64url")]
    Seed,
    /// The token could not be signed.
    #[error("the token could not be signed")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    kid: String,
    d: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

/// Signs tokens with one private key.
#[derive(Clone)]
pub struct TokenMint {
    kid: String,
    key: EncodingKey,
    issuer: Option<String>,
    audience: Option<String>,
}

impl TokenMint {
    /// Reads a private JWK: `{"kty":"OKP","crv":"Ed25519","kid":…,"x":…,"d":…}`.
    pub fn from_jwk_file(path: impl AsRef<Path>) -> Result<Self, TokenError> {
        let path = path.as_ref();
        let read = |source| TokenError::Read { path: path.to_owned(), source };
        let text = std::fs::read(path).map_err(read)?;
        Self::from_jwk(serde_json::from_slice(&text).map_err(TokenError::Shape)?)
    }

    /// The same from a value in memory.
    pub fn from_jwk(jwk: Value) -> Result<Self, TokenError> {
        let jwk: Jwk = serde_json::from_value(jwk).map_err(TokenError::Shape)?;
        if jwk.kty != "OKP" || jwk.crv != "Ed25519" {
            return Err(TokenError::Kind { kty: jwk.kty, crv: jwk.crv });
        }
        let seed = URL_SAFE_NO_PAD.decode(&jwk.d).map_err(|_| TokenError::Seed)?;
        if seed.len() != 32 {
            return Err(TokenError::Seed);
        }
        let key = EncodingKey::from_ed_der(&[&PKCS8_PREFIX[..], &seed].concat());
        Ok(Self { kid: jwk.kid, key, issuer: None, audience: None })
    }

    /// Adds an `iss` to every token.
    pub fn with_issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Adds an `aud` to every token.
    pub fn with_audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Signs a token for `user` (its `sub`) that expires `ttl` from now; with a `ttl` of zero it has expired already.
    pub fn token(&self, user: &str, ttl: Duration) -> Result<String, TokenError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = Claims {
            sub: user,
            iat: now,
            exp: now.saturating_add(ttl.as_secs()),
            iss: self.issuer.as_deref(),
            aud: self.audience.as_deref(),
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(TokenError::Sign)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode};
    use serde_json::json;

    use super::*;

    // The key pair of RFC 8037, appendix A.
    const D: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    #[test]
    fn a_token_verifies_with_the_public_half() {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": X, "d": D});
        let token = TokenMint::from_jwk(jwk).unwrap().token("anna", Duration::from_secs(60)).unwrap();
        let key = DecodingKey::from_ed_components(X).unwrap();
        let data = decode::<Value>(&token, &key, &Validation::new(Algorithm::EdDSA)).unwrap();
        assert_eq!(data.header.kid.as_deref(), Some("k1"));
        assert_eq!(data.claims["sub"], "anna");
    }

    #[test]
    fn other_kinds_of_key_are_refused() {
        let jwk = json!({"kty": "OKP", "crv": "X25519", "kid": "k1", "d": D});
        assert!(matches!(TokenMint::from_jwk(jwk), Err(TokenError::Kind { .. })));
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k1", "d": "AAAA"});
        assert!(matches!(TokenMint::from_jwk(jwk), Err(TokenError::Seed)));
    }
}
