//! The logs known to exist.

use crate::protocol::LogId;
use moka::sync::Cache;
use std::time::Duration;

/// Maximum number of logs remembered.
const MOST: u64 = 200_000;
/// How long each is remembered; accounts may be erased.
const FOR: Duration = Duration::from_secs(3_600);

/// Remembers which logs exist, so that a push to one need not ask whether it creates it.
#[derive(Clone, Debug)]
pub struct ExistingLogs(Cache<LogId, ()>);

impl Default for ExistingLogs {
    fn default() -> ExistingLogs {
        ExistingLogs(Cache::builder().max_capacity(MOST).time_to_live(FOR).build())
    }
}

impl ExistingLogs {
    /// Returns true if this log existed within the last hour. One that is not remembered may exist as well.
    pub fn contains(&self, log: LogId) -> bool {
        self.0.contains_key(&log)
    }

    /// Remembers that this log exists.
    pub fn note(&self, log: LogId) {
        // Entries that are written again would be kept for another hour each time, and writing costs more.
        if !self.0.contains_key(&log) {
            self.0.insert(log, ());
        }
    }
}
