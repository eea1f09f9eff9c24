//! The issuer's keys.
//!
//! The whole set is held under one roof: a `kid` is an attacker's input and must neither fill a cache nor make us
//! call the issuer at will. An unknown `kid` refreshes the set behind one gate with a cool-down. While the issuer
//! is down the keys at hand go on being used, up to a limit.

use crate::config::Config;
use crate::telemetry::Metrics;
use arc_swap::ArcSwapOption;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use url::Url;

/// How long the issuer may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The cool-down of a replica that has no keys at all, if the configured one is longer: nobody can be let in.
const COOLDOWN_WITHOUT_KEYS: Duration = Duration::from_secs(1);
/// A key set larger than this is no key set.
const MAX_BYTES: usize = 1 << 20;

/// Why there is no key to check a token with.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JwksError {
    #[error("the issuer's keys could not be fetched")]
    Fetch(#[source] Arc<reqwest::Error>),
    #[error("the issuer's keys could not be read")]
    Parse(#[source] Arc<serde_json::Error>),
    #[error("the issuer's key set is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the issuer's keys could not be fetched a moment ago, and those at hand are too old")]
    CoolingDown,
}

#[derive(Debug)]
pub(super) struct KeySource {
    shared: Arc<Shared>,
    times: Times,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    refresh: Duration,
    cooldown: Duration,
    max_stale: Duration,
}

#[derive(Debug)]
struct Shared {
    url: Url,
    http: reqwest::Client,
    set: ArcSwapOption<KeySet>,
    /// When the last fetch ended. The lock is the gate: one fetch at a time.
    gate: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
}

struct KeySet {
    keys: HashMap<String, Arc<DecodingKey>>,
    fetched: Instant,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("kids", &self.keys.keys()).field("fetched", &self.fetched).finish()
    }
}

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

impl KeySource {
    pub(super) fn new(config: &Config, http: reqwest::Client, metrics: Arc<Metrics>) -> KeySource {
        let times = Times {
            refresh: config.jwks_refresh_ms,
            cooldown: config.jwks_cooldown_ms,
            max_stale: config.jwks_max_stale_ms,
        };
        let shared =
            Shared { url: config.jwks_url.clone(), http, set: ArcSwapOption::empty(), gate: Mutex::new(None), metrics };
        KeySource { shared: Arc::new(shared), times }
    }

    /// Whether there is a set, of whatever age.
    pub(super) fn is_filled(&self) -> bool {
        self.shared.set.load().is_some()
    }

    /// Fetches the first set, if there is none and no other attempt was just made.
    pub(super) async fn fetch_first(&self) {
        // Its failure is logged where it happens.
        let _ = self.shared.refresh(None, self.times.cooldown).await;
    }

    /// The key of that id, or none if the issuer has no such key.
    pub(super) async fn get(&self, kid: &str) -> Result<Option<Arc<DecodingKey>>, JwksError> {
        let set = self.shared.set.load_full();
        if let Some(set) = &set {
            let (key, age) = (set.keys.get(kid), set.fetched.elapsed());
            if let Some(key) = key.filter(|_| age < self.times.max_stale) {
                if age >= self.times.refresh {
                    self.refresh_aside();
                }
                return Ok(Some(key.clone()));
            }
        }
        let seen = set.map(|set| set.fetched);
        let failure = self.shared.refresh(seen, self.times.cooldown).await.err();
        match self.shared.set.load_full() {
            Some(set) if set.fetched.elapsed() < self.times.max_stale => Ok(set.keys.get(kid).cloned()),
            _ => Err(failure.unwrap_or(JwksError::CoolingDown)),
        }
    }

    /// Fetches a newer set without letting anybody wait for it.
    fn refresh_aside(&self) {
        if self.shared.gate.try_lock().is_ok_and(|last| cooled_down(*last, self.times.cooldown)) {
            let (shared, cooldown) = (self.shared.clone(), self.times.cooldown);
            let seen = shared.set.load().as_ref().map(|set| set.fetched);
            tokio::spawn(async move {
                // Its failure is logged where it happens, and the keys at hand go on being used.
                let _ = shared.refresh(seen, cooldown).await;
            });
        }
    }
}

fn cooled_down(last: Option<Instant>, cooldown: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= cooldown)
}

impl Shared {
    /// Fetches the set, unless another caller has since `seen`, or the last attempt is too recent.
    async fn refresh(&self, seen: Option<Instant>, cooldown: Duration) -> Result<(), JwksError> {
        let mut last = self.gate.lock().await;
        let newer = self.set.load().as_ref().map(|set| set.fetched) != seen;
        let cooldown = if seen.is_none() { cooldown.min(COOLDOWN_WITHOUT_KEYS) } else { cooldown };
        if newer || !cooled_down(*last, cooldown) {
            return Ok(());
        }
        let fetched = self.fetch().await;
        *last = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                self.metrics.jwks_fetches.with_label_values(&["ok"]).inc();
                self.set.store(Some(Arc::new(KeySet { keys, fetched: Instant::now() })));
                Ok(())
            }
            Err(error) => {
                self.metrics.jwks_fetches.with_label_values(&["failed"]).inc();
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot fetch the issuer's keys");
                Err(error)
            }
        }
    }

    async fn fetch(&self) -> Result<HashMap<String, Arc<DecodingKey>>, JwksError> {
        let failed = |error| JwksError::Fetch(Arc::new(error));
        let request = self.http.get(self.url.clone()).timeout(TIMEOUT);
        let mut answer = request.send().await.and_then(|answer| answer.error_for_status()).map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(JwksError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let set: JwkSet = serde_json::from_slice(&body).map_err(|error| JwksError::Parse(Arc::new(error)))?;
        // Keys of other kinds are none of our business: the set may serve others too.
        Ok(set.keys.into_iter().filter_map(ed25519_key).collect())
    }
}

fn ed25519_key(jwk: serde_json::Value) -> Option<(String, Arc<DecodingKey>)> {
    let jwk: Ed25519Jwk = serde_json::from_value(jwk).ok()?;
    if jwk.kty != "OKP" || jwk.crv != "Ed25519" {
        return None;
    }
    let key = DecodingKey::from_ed_components(&jwk.x).ok()?;
    Some((jwk.kid, Arc::new(key)))
}
