//! The issuer's keys in memory.
//!
//! The whole set is held under one roof: a `kid` is an attacker's input and must neither fill a cache nor make us
//! call the issuer at will. One background task asks the issuer: when the set is due for a refresh, when a request
//! waits for a key that is not in it, and when a signature does not match the key that its token names. Requests to the
//! issuer start at least a cool-down apart, whoever asks or hangs up meanwhile. While the issuer is down the known keys
//! stay in use, up to a limit.

use super::jwks::{JwksError, Key, Keys, fetch};
use crate::clock::Clock;
use crate::config::Config;
use crate::places::Places;
use crate::telemetry::{Metrics, traces};
use arc_swap::ArcSwapOption;
use futures_util::FutureExt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use url::Url;

/// The cool-down of a replica without any keys, if the configured one is longer: until then it can let nobody in.
const COOLDOWN_WITHOUT_KEYS: Duration = Duration::from_secs(1);
/// How long a request waits for a missing key; less than the time that a WebSocket has to authenticate.
const MAX_WAIT: Duration = Duration::from_secs(8);
/// Maximum number of requests waiting for a key, not counting extra places for addresses that have few.
const MAX_WAITING: usize = 10_000;

#[derive(Debug)]
pub(super) struct KeySource {
    shared: Arc<Shared>,
}

/// The keys of one id, and the generation of their set.
pub(super) struct Found {
    pub(super) keys: Arc<[Key]>,
    pub(super) generation: u64,
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
    times: Times,
    set: ArcSwapOption<KeySet>,
    /// The last fetch that has ended. Sent after the new set is in place.
    attempts: watch::Sender<Option<Attempt>>,
    /// Signaled by requests that miss a key.
    wanted: Notify,
    waiting: Places,
    metrics: Arc<Metrics>,
    clock: Clock,
}

struct KeySet {
    keys: Keys,
    /// Increases with each set whose keys differ from the one before.
    generation: u64,
    /// When the fetch of this set started.
    asked: Instant,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("kids", &self.keys.keys()).field("generation", &self.generation).finish()
    }
}

#[derive(Clone, Debug)]
struct Attempt {
    began: Instant,
    failure: Option<JwksError>,
}

impl KeySource {
    pub(super) fn new(config: &Config, http: reqwest::Client, metrics: Arc<Metrics>, clock: Clock) -> KeySource {
        let times = Times {
            refresh: config.auth.jwks_refresh_ms,
            cooldown: config.auth.jwks_cooldown_ms,
            max_stale: config.auth.jwks_max_stale_ms,
        };
        let shared = Shared {
            url: config.auth.jwks_url.clone(),
            http,
            times,
            set: ArcSwapOption::empty(),
            attempts: watch::Sender::new(None),
            wanted: Notify::new(),
            waiting: Places::new(MAX_WAITING),
            metrics,
            clock,
        };
        KeySource { shared: Arc::new(shared) }
    }

    /// Returns true if there ever was a set, however old it is now.
    pub(super) fn is_filled(&self) -> bool {
        self.shared.set.load().is_some()
    }

    /// Returns the generation of the current keys; `None` if there are none, or if they are too old. Whatever was
    /// checked with keys of another generation must be checked again.
    pub(super) fn generation(&self) -> Option<u64> {
        self.shared.fresh(|set| Some(set.generation))
    }

    /// Returns the keys with this id, for a request from this address; `None` if the issuer, asked after this call
    /// began, has no such key.
    ///
    /// # Errors
    /// The key is not in memory, and the issuer could not be asked in time.
    pub(super) async fn get(&self, kid: &str, from: Option<IpAddr>) -> Result<Option<Found>, JwksError> {
        let came = self.shared.clock.instant();
        let deadline = Instant::now() + MAX_WAIT;
        let known = || {
            self.shared.fresh(|set| {
                let keys = set.keys.get(kid)?;
                Some(Found { keys: keys.clone(), generation: set.generation })
            })
        };
        if let Some(found) = known() {
            return Ok(Some(found));
        }
        let _place = self.shared.waiting.enter(from).ok_or(JwksError::TooManyWaiting)?;
        let mut attempts = self.shared.attempts.subscribe();
        let last = attempts.borrow_and_update().clone();
        self.shared.wanted.notify_one();
        if let Some(found) = known() {
            return Ok(Some(found));
        }
        if let Some(Attempt { began, failure: Some(failure) }) = last {
            // It failed a moment ago, and will be retried as soon as allowed, without anybody waiting for it.
            if self.shared.age(began) < self.shared.cooldown() {
                return Err(failure);
            }
        }
        loop {
            let waiting = traces::wait_span("wait for the issuer's keys");
            let ended = timeout_at(deadline, attempts.changed()).instrument(waiting).await;
            // The sender lives in `self.shared`, so it cannot be closed.
            if !matches!(ended, Ok(Ok(()))) {
                return Err(JwksError::NotInTime);
            }
            if let Some(found) = known() {
                return Ok(Some(found));
            }
            match attempts.borrow_and_update().clone() {
                Some(Attempt { failure: Some(failure), .. }) => return Err(failure),
                Some(Attempt { began, failure: None }) if began > came => return Ok(None),
                // The issuer may not have had the key when that attempt started, and may have it now.
                _ => self.shared.wanted.notify_one(),
            }
        }
    }

    /// Asks for a refresh without waiting for it, when a signature does not match the key that its token names: the key may
    /// have been replaced under the same `kid`.
    pub(super) fn request_refresh(&self) {
        self.shared.wanted.notify_one();
    }

    /// Fetches keys at the start and whenever they are wanted or due, until told to stop. The only task that calls the
    /// issuer.
    pub(super) fn fetching(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.shared.clone();
        async move {
            stop.run_until_cancelled(shared.fetch_for_ever()).await;
        }
    }
}

impl Shared {
    /// Reads from the current keys, if they are not too old.
    fn fresh<T>(&self, read: impl FnOnce(&KeySet) -> Option<T>) -> Option<T> {
        let set = self.set.load();
        set.as_ref().filter(|set| self.age(set.asked) < self.times.max_stale).and_then(|set| read(set))
    }

    fn age(&self, moment: Instant) -> Duration {
        self.clock.instant().saturating_duration_since(moment)
    }

    fn cooldown(&self) -> Duration {
        match self.set.load().as_ref() {
            Some(_) => self.times.cooldown,
            None => self.times.cooldown.min(COOLDOWN_WITHOUT_KEYS),
        }
    }

    async fn fetch_for_ever(&self) {
        loop {
            // The first set is fetched at once: without it the replica is not ready.
            let due = self.set.load().as_ref().map(|set| set.asked + self.times.refresh);
            if let Some(due) = due {
                tokio::select! {
                    () = self.wanted.notified() => {}
                    () = self.clock.sleep_until(due) => {}
                }
            }
            let last = self.attempts.borrow().as_ref().map(|attempt| attempt.began);
            if let Some(last) = last {
                self.clock.sleep_until(last + self.cooldown()).await;
            }
            self.attempt().await;
        }
    }

    async fn attempt(&self) {
        let began = self.clock.instant();
        let fetched = fetch(&self.http, &self.url).await;
        let outcome = if fetched.is_ok() { "ok" } else { "failed" };
        self.metrics.jwks_fetches.with_label_values(&[outcome]).inc();
        let failure = match fetched {
            Ok(keys) => {
                self.replace(keys, began);
                None
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot fetch the issuer's keys");
                Some(error)
            }
        };
        // Requests signaled until now are answered by this attempt, or signal again.
        let _ = self.wanted.notified().now_or_never();
        self.attempts.send_replace(Some(Attempt { began, failure }));
    }

    fn replace(&self, keys: Keys, asked: Instant) {
        let before = self.set.load_full();
        let generation = match &before {
            Some(set) if are_the_same(&set.keys, &keys) => set.generation,
            Some(set) => set.generation + 1,
            None => 0,
        };
        self.set.store(Some(Arc::new(KeySet { keys, generation, asked })));
    }
}

fn are_the_same(before: &Keys, after: &Keys) -> bool {
    let public = |keys: &Arc<[Key]>| keys.iter().map(|key| key.public.clone()).collect::<Vec<_>>();
    let is_in = |(kid, keys): (&String, &Arc<[Key]>)| after.get(kid).is_some_and(|other| public(other) == public(keys));
    before.len() == after.len() && before.iter().all(is_in)
}
