//! Limits on how often and how much one user may push and pull, and on how much may be stored.
//!
//! Counted by each replica separately, in memory; the database is queried only for the bytes stored, and that only now
//! and then. A cluster therefore allows the rate multiplied by the number of replicas.

use super::LimitReached;
use super::apps::{Apps, NewApp};
use super::bucket::{Bucket, Refill};
use super::error::LimitError;
use super::rate::{Rate, Rates};
use crate::clock::Clock;
use crate::config::LimitsConfig;
use crate::protocol::push::{NewChange, Op, Push};
use crate::protocol::{Log, UserKey};
use crate::store::{Pushed, Store};
use crate::telemetry::Metrics;
use moka::sync::Cache;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const DAY: Duration = Duration::from_secs(86_400);
/// Maximum number of users remembered. The counts of one who is forgotten start over.
const MAX_USERS: u64 = 200_000;
/// How long a user is remembered; by then, every bucket is full again.
const REMEMBER: Duration = Duration::from_secs(86_400);
/// How long the stored bytes of a user are cached, with the bytes pushed here since added.
const STORED_BYTES_AGE: Duration = Duration::from_secs(30);

/// The limits of each user.
#[derive(Clone, Debug)]
pub struct UserLimits {
    rates: Rates,
    bytes: Option<Refill>,
    max_stored: Option<u64>,
    users: Cache<UserKey, Arc<Mutex<UserState>>>,
    apps: Apps,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// What is known about a user.
#[derive(Debug, Default)]
struct UserState {
    pushes: Option<Bucket>,
    pulls: Option<Bucket>,
    bytes: Option<Bucket>,
    stored: Option<StoredBytes>,
    /// Held by the request that reads the stored bytes, while they are read.
    reading: Option<Arc<tokio::sync::Mutex<()>>>,
    /// Bytes stored here in total.
    added: u64,
    /// Bytes of pushes that are being stored.
    claimed: u64,
}

/// The stored bytes of a user, as read from the database.
#[derive(Clone, Copy, Debug)]
struct StoredBytes {
    /// When the read started.
    read: Instant,
    bytes: u64,
    /// The value of `added` at that time.
    added_before: u64,
}

/// Permission to store a push, under its user's limits. Held until the push is stored, which makes
/// the next one count it.
#[derive(Debug, Default)]
pub struct Admission {
    app: NewApp,
    bytes: Option<BytesClaim>,
}

impl Admission {
    /// Records that the push is stored.
    pub fn stored(self, push: &Push, pushed: &Pushed) {
        self.app.stored();
        if let Some(claim) = &self.bytes
            && pushed.stored.is_some()
        {
            let new = push.changes.iter().enumerate().filter(|(index, _)| !pushed.known.contains_key(index));
            lock(&claim.user).added += new.map(|(_, change)| change.size as u64).sum::<u64>();
        }
    }
}

/// Bytes of a push that is being stored; released on drop.
#[derive(Debug)]
struct BytesClaim {
    user: Arc<Mutex<UserState>>,
    bytes: u64,
}

impl BytesClaim {
    /// Claims bytes; `None` if they would exceed the maximum together with what the user has.
    fn of(user: &Arc<Mutex<UserState>>, bytes: u64, max: u64) -> Option<BytesClaim> {
        let mut state = lock(user);
        let stored = state.stored.map_or(0, |stored| stored.bytes.saturating_add(state.added - stored.added_before));
        if stored.saturating_add(state.claimed).saturating_add(bytes) > max {
            return None;
        }
        state.claimed += bytes;
        Some(BytesClaim { user: user.clone(), bytes })
    }
}

impl Drop for BytesClaim {
    fn drop(&mut self) {
        lock(&self.user).claimed -= self.bytes;
    }
}

impl UserLimits {
    /// Creates the configured limits, with nothing used.
    ///
    /// `queue_timeout`: how long the first push to an app waits for those before it.
    pub fn new(config: &LimitsConfig, queue_timeout: Duration, metrics: Arc<Metrics>, clock: Clock) -> UserLimits {
        let rates = Rates {
            pushes: Rate::new(config.max_user_pushes_per_second),
            pulls: Rate::new(config.max_user_pulls_per_second),
        };
        let a_day = config.max_user_bytes_per_day as f64;
        UserLimits {
            rates,
            bytes: (a_day > 0.0).then_some(Refill { per_second: a_day / DAY.as_secs_f64(), capacity: a_day }),
            max_stored: Some(config.max_user_bytes_stored).filter(|bytes| *bytes > 0),
            users: Cache::builder().max_capacity(MAX_USERS).time_to_idle(REMEMBER).build(),
            apps: Apps::new(config.max_user_apps, queue_timeout),
            metrics,
            clock,
        }
    }

    /// Returns the rates, which may be changed.
    pub fn rates(&self) -> Rates {
        self.rates.clone()
    }

    /// Counts a push.
    ///
    /// # Errors
    /// The user pushes too often.
    pub fn push(&self, user: UserKey) -> Result<(), LimitReached> {
        self.take(user, 1.0, self.rates.pushes.refill(), |state| &mut state.pushes, LimitReached::Pushes)
    }

    /// Counts a pull or a newly opened stream.
    ///
    /// # Errors
    /// The user pulls too often.
    pub fn pull(&self, user: UserKey) -> Result<(), LimitReached> {
        self.take(user, 1.0, self.rates.pulls.refill(), |state| &mut state.pulls, LimitReached::Pulls)
    }

    /// Counts the bytes of a push's body.
    ///
    /// # Errors
    /// The user has pushed too many.
    pub fn push_bytes(&self, user: UserKey, bytes: usize) -> Result<(), LimitReached> {
        let reached = |wait: Duration| LimitReached::BytesPerDay(wait.min(DAY));
        self.take(user, bytes as f64, self.bytes, |state| &mut state.bytes, reached)
    }

    /// Takes back the bytes of a push that was not stored through no fault of its user's.
    pub fn give_back_bytes(&self, user: UserKey, bytes: usize) {
        let Some(refill) = self.bytes else { return };
        if let Some(bucket) = &mut lock(&self.user(user)).bytes {
            bucket.give_back(bytes as f64, refill);
        }
    }

    fn take(
        &self,
        user: UserKey,
        tokens: f64,
        refill: Option<Refill>,
        bucket: impl FnOnce(&mut UserState) -> &mut Option<Bucket>,
        reached: impl FnOnce(Duration) -> LimitReached,
    ) -> Result<(), LimitReached> {
        let Some(refill) = refill else { return Ok(()) };
        let now = self.clock.instant();
        let user = self.user(user);
        let taken = bucket(&mut lock(&user)).get_or_insert(Bucket::full(refill, now)).take(tokens, refill, now);
        taken.map_err(|wait| self.count(reached(wait)))
    }

    /// Checks that a push may be stored under the user's limits on apps and bytes. The returned value must be
    /// held until the push is stored.
    ///
    /// # Errors
    /// It may not be stored, or the database could not be queried.
    pub async fn store(&self, store: &Store, log: &Log, push: &Arc<Push>) -> Result<Admission, LimitError> {
        let checked = match self.claim_bytes(store, log, push).await {
            Ok(bytes) => self.apps.enter(store, log).await.map(|app| Admission { app, bytes }),
            Err(error) => Err(error),
        };
        checked.inspect_err(|error| {
            if let LimitError::Reached(reached) = error {
                self.count(*reached);
            }
        })
    }

    async fn claim_bytes(&self, store: &Store, log: &Log, push: &Arc<Push>) -> Result<Option<BytesClaim>, LimitError> {
        let Some(max) = self.max_stored else { return Ok(None) };
        let user = self.user(log.user);
        self.read_stored(store, log.user, &user).await?;
        // Deletes are always accepted: devices must not show deleted records forever.
        let limit = |only_deletes: bool| if only_deletes { u64::MAX } else { max };
        let is_delete = |change: &NewChange| change.op == Op::Delete;
        let bytes = push.changes.iter().map(|change| change.size as u64).sum();
        if let Some(claim) = BytesClaim::of(&user, bytes, limit(push.changes.iter().all(is_delete))) {
            return Ok(Some(claim));
        }
        // What is stored already adds nothing: the response to this push, or to a part of it, may have been lost.
        let new = store.known.new_changes(log, push).await?;
        let new = || new.iter().filter_map(|index| push.changes.get(*index));
        let bytes = new().map(|change| change.size as u64).sum();
        let claim = BytesClaim::of(&user, bytes, limit(new().all(is_delete)));
        Ok(Some(claim.ok_or(LimitReached::BytesStored)?))
    }

    /// Makes sure that the stored bytes of a user are known approximately: what is being stored while they are read again
    /// may count twice until the next time. Before they are known nothing is stored, so the first time they are exact.
    async fn read_stored(&self, store: &Store, key: UserKey, user: &Mutex<UserState>) -> Result<(), LimitError> {
        let is_known = || {
            let (now, state) = (self.clock.instant(), lock(user));
            state.stored.is_some_and(|stored| now < stored.read + STORED_BYTES_AGE)
        };
        if is_known() {
            return Ok(());
        }
        let reading = lock(user).reading.get_or_insert_default().clone();
        let first = reading.try_lock();
        if first.is_err() {
            drop(reading.lock().await);
        }
        // Somebody else has read them, or has failed to: then nobody waits for another.
        if is_known() {
            return Ok(());
        }
        let (read, added_before) = (self.clock.instant(), lock(user).added);
        let bytes = store.quotas.stored_bytes(key).await?;
        let mut state = lock(user);
        // Several requests may read at once.
        if state.stored.is_none_or(|stored| stored.read < read) {
            state.stored = Some(StoredBytes { read, bytes, added_before });
            state.reading = None;
        }
        Ok(())
    }

    fn user(&self, user: UserKey) -> Arc<Mutex<UserState>> {
        self.users.get_with(user, Arc::default)
    }

    /// Counts a refusal.
    fn count(&self, reached: LimitReached) -> LimitReached {
        self.metrics.refused.with_label_values(&[reached.label()]).inc();
        reached
    }
}

fn lock(state: &Mutex<UserState>) -> MutexGuard<'_, UserState> {
    // Each change is complete before the lock is released.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
