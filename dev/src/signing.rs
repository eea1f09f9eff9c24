//! The key that signs development tokens.
//!
//! Tokens are assembled by hand here, not by the library that the server verifies with: a mistake made in the same way
//! on both sides of a test would never be found.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::AsBigEndian as _,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::DevError;

/// The name of its file in the local cluster's folder.
pub const KEY_FILE: &str = "issuer-key.json";

/// An Ed25519 key pair with the `kid` that RFC 7638 derives from its public half.
#[derive(Clone)]
pub struct SigningKey {
    pair: Arc<Ed25519KeyPair>,
    kid: String,
    /// The public half, base64url.
    x: String,
}

/// The file's content: a private JSON web key (RFC 8037).
#[derive(Serialize, Deserialize)]
struct PrivateJwk {
    kty: String,
    crv: String,
    kid: String,
    x: String,
    d: String,
}

impl SigningKey {
    /// Generates a new key.
    pub fn generate() -> Result<Self, DevError> {
        let pair = Ed25519KeyPair::generate()
            .map_err(|_| DevError::Usage("this machine could not create an Ed25519 key".into()))?;
        Ok(Self::of(pair))
    }

    fn of(pair: Ed25519KeyPair) -> Self {
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        // RFC 7638: only the required members, in this order, without spaces.
        let thumbprint = Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
        Self { pair: Arc::new(pair), kid: URL_SAFE_NO_PAD.encode(thumbprint), x }
    }

    /// Loads the key in `path`; creates it, readable only by its owner, if there is none. Several processes may do so
    /// at once: all get the same key.
    pub fn load_or_create(path: &Path) -> Result<Self, DevError> {
        match fs::read(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate()?;
                key.save(path)?;
                let action = format!("read the key {}", path.display());
                Self::parse(path, &fs::read(path).map_err(DevError::io(action))?)
            }
            Err(source) => Err(DevError::Io { action: format!("read the key {}", path.display()), source }),
        }
    }

    /// Loads the key in `path`, which a running cluster has created.
    pub fn load(path: &Path) -> Result<Self, DevError> {
        let text = fs::read(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DevError::Usage(format!(
                "there is no key at {}: run this where `mana-dev up` was started, or name its key with --key",
                path.display()
            )),
            _ => DevError::Io { action: format!("read the key {}", path.display()), source: error },
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Self, DevError> {
        let bad = |problem: String| DevError::Key {
            path: path.to_owned(),
            problem: format!("{problem}; remove the file to get a new one"),
        };
        let jwk: PrivateJwk =
            serde_json::from_slice(text).map_err(|error| bad(format!("isn't a private JSON web key ({error})")))?;
        if jwk.kty != "OKP" || jwk.crv != "Ed25519" {
            return Err(bad("isn't an Ed25519 key".into()));
        }
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| bad("isn't base64url".into()));
        let pair = Ed25519KeyPair::from_seed_and_public_key(&bytes(&jwk.d)?, &bytes(&jwk.x)?)
            .map_err(|_| bad("has a public key that doesn't match".into()))?;
        Ok(Self { kid: jwk.kid, ..Self::of(pair) })
    }

    /// Writes the key, completely or not at all, and never over another one.
    pub fn save(&self, path: &Path) -> Result<(), DevError> {
        let action = || DevError::io(format!("write the key {}", path.display()));
        let seed = self
            .pair
            .seed()
            .and_then(|seed| seed.as_be_bytes())
            .map_err(|_| action()(io::Error::other("the key can't be exported")))?;
        let jwk = PrivateJwk {
            kty: "OKP".into(),
            crv: "Ed25519".into(),
            kid: self.kid.clone(),
            x: self.x.clone(),
            d: URL_SAFE_NO_PAD.encode(seed.as_ref()),
        };
        let write = || {
            let text = serde_json::to_string_pretty(&jwk)?;
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let part = path.with_extension(format!("{}.part", std::process::id()));
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            writeln!(file, "{text}")?;
            let linked = match fs::hard_link(&part, path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            };
            fs::remove_file(&part)?;
            linked
        };
        write().map_err(action())
    }

    /// Its key id in the JWKS and in tokens.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its public half as in the JWKS.
    pub fn public_jwk(&self) -> Value {
        json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig",
            "kid": self.kid, "x": self.x,
        })
    }

    /// Signs a token with any claims: tests need bad ones too.
    pub fn mint(&self, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.kid });
        self.mint_with(&header, claims)
    }

    /// The same with any header, for tokens that must be refused.
    pub fn mint_with(&self, header: &Value, claims: &Value) -> String {
        self.sign_texts(header.to_string(), claims.to_string())
    }

    /// The same with any texts, which need not even be JSON.
    pub fn sign_texts(&self, header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
        let signed = [header.as_ref(), claims.as_ref()].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Signs a token for `user`, valid from now on for `ttl`.
    pub fn token(&self, user: &str, ttl: Duration) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.mint(&json!({
            "sub": user,
            "iat": now.as_secs(),
            "exp": (now + ttl).as_secs(),
        }))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};

    use super::*;

    fn verify(key: &SigningKey, token: &str) -> Result<Value, jsonwebtoken::errors::Error> {
        let decoding = DecodingKey::from_ed_components(&key.x)?;
        let validation = Validation::new(Algorithm::EdDSA);
        decode::<Value>(token, &decoding, &validation).map(|data| data.claims)
    }

    #[test]
    fn a_minted_token_verifies_with_the_public_key_and_no_other() {
        let key = SigningKey::generate().unwrap();
        let other = SigningKey::generate().unwrap();
        let token = key.token("alice", Duration::from_secs(60));
        assert_eq!(verify(&key, &token).unwrap()["sub"], "alice");
        assert!(verify(&other, &token).is_err());
        let header = jsonwebtoken::decode_header(&token).unwrap();
        assert_eq!(header.kid.as_deref(), Some(key.kid()));
        assert_ne!(key.kid(), other.kid());
    }

    #[test]
    fn a_saved_key_is_the_same_when_loaded_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/key.json");
        let first = SigningKey::load_or_create(&path).unwrap();
        let second = SigningKey::load_or_create(&path).unwrap();
        assert_eq!(first.public_jwk(), second.public_jwk());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let token = first.token("alice", Duration::from_secs(60));
        assert!(verify(&second, &token).is_ok());
        assert!(!format!("{first:?}").contains(&first.x));
    }

    #[test]
    fn a_broken_key_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.json");
        fs::write(&path, "{}").unwrap();
        let error = SigningKey::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("key.json"), "{error}");
    }
}
