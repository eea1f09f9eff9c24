//! Limits the number of a user's apps: the costs of joins and of the reconciler grow with it.
//!
//! A log that is known to exist, from a push or a read, is not looked up. The first push to any other log looks it up
//! under a lock shared by all such pushes of the user on this replica, and holds the lock until it is stored. The limit is
//! therefore exact on one replica; a user who creates apps on several replicas at once may exceed it by as many as there
//! are replicas.

use super::LimitReached;
use super::error::LimitError;
use crate::protocol::{Log, LogId, UserKey};
use crate::store::{ExistingLogs, Store};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::timeout;

/// The apps of all users.
#[derive(Clone, Debug)]
pub(super) struct Apps {
    max: u32,
    queue_timeout: Duration,
    /// Users who are creating another app.
    users: Arc<Mutex<HashMap<UserKey, Weak<tokio::sync::Mutex<()>>>>>,
}

/// A push that may create an app. Held until it is stored, which makes the user's next push count it.
#[derive(Debug, Default)]
pub struct NewApp(Option<UserLock>);

#[derive(Debug)]
struct UserLock {
    apps: Apps,
    existing: ExistingLogs,
    log: LogId,
    user: UserKey,
    lock: Option<Arc<tokio::sync::Mutex<()>>>,
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Apps {
    pub(super) fn new(max: u32, queue_timeout: Duration) -> Apps {
        Apps { max, queue_timeout, users: Arc::default() }
    }

    /// Checks that a log exists, or may be created.
    pub(super) async fn enter(&self, store: &Store, log: &Log) -> Result<NewApp, LimitError> {
        if self.max == 0 || store.existing.contains(log.id) {
            return Ok(NewApp::default());
        }
        let locked = timeout(self.queue_timeout, self.lock(store, log)).await.map_err(|_| LimitError::Busy)?;
        if store.existing.contains(log.id) {
            return Ok(NewApp::default());
        }
        let apps = store.quotas.apps(log, self.max).await?;
        if apps.has_this {
            store.existing.note(log.id);
            return Ok(NewApp::default());
        }
        if apps.count >= self.max {
            return Err(LimitReached::Apps(self.max).into());
        }
        Ok(NewApp(Some(locked)))
    }

    async fn lock(&self, store: &Store, log: &Log) -> UserLock {
        let lock = {
            let mut users = self.users();
            users.get(&log.user).and_then(Weak::upgrade).unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                users.insert(log.user, Arc::downgrade(&lock));
                lock
            })
        };
        let mut locked = UserLock {
            apps: self.clone(),
            existing: store.existing.clone(),
            log: log.id,
            user: log.user,
            lock: Some(lock.clone()),
            guard: None,
        };
        locked.guard = Some(lock.lock_owned().await);
        locked
    }

    fn users(&self) -> MutexGuard<'_, HashMap<UserKey, Weak<tokio::sync::Mutex<()>>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NewApp {
    /// Records that the push, and therefore its app, is stored.
    pub fn stored(self) {
        if let Some(locked) = &self.0 {
            locked.existing.note(locked.log);
        }
    }
}

impl Drop for UserLock {
    fn drop(&mut self) {
        self.guard = None;
        let mut users = self.apps.users();
        self.lock = None;
        if users.get(&self.user).is_some_and(|lock| lock.strong_count() == 0) {
            users.remove(&self.user);
        }
    }
}
