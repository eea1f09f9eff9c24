//! Tracks which records of a history have been created: answered with 200, so visible to every later pull.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::replay::history::RecordKey;

/// Shared by the authors of one history.
pub struct Board {
    created: Mutex<HashSet<RecordKey>>,
    news: watch::Sender<()>,
}

impl Default for Board {
    fn default() -> Self {
        Self { created: Mutex::default(), news: watch::Sender::new(()) }
    }
}

impl Board {
    /// Marks these records as stored.
    pub fn publish(&self, keys: impl Iterator<Item = RecordKey>) {
        self.created.lock().unwrap_or_else(PoisonError::into_inner).extend(keys);
        self.news.send_replace(());
    }

    /// True if the record is stored.
    pub fn has(&self, key: &RecordKey) -> bool {
        self.created.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// Waits until the record is stored.
    pub async fn wait_for(&self, key: &RecordKey) {
        let mut news = self.news.subscribe();
        while !self.has(key) {
            if news.changed().await.is_err() {
                return;
            }
        }
    }
}
