//! Readers whose cursors show that the database went back to an earlier state: restored, or failed over with data loss.

use crate::protocol::UserKey;
use crate::telemetry::Metrics;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Maximum number of users remembered. Readers of any others are counted but not logged.
const MAX_REMEMBERED: usize = 10_000;

/// The users whose readers have shown it; each is logged once.
#[derive(Clone, Debug)]
pub(super) struct Rewinds {
    logged: Arc<Mutex<HashSet<UserKey>>>,
    metrics: Arc<Metrics>,
}

impl Rewinds {
    pub(super) fn new(metrics: Arc<Metrics>) -> Rewinds {
        Rewinds { logged: Arc::default(), metrics }
    }

    /// Records that a reader's cursor was past the newest change.
    pub(super) fn note(&self, user: UserKey) {
        self.metrics.cursors_past_head.inc();
        let is_new = {
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            logged.len() < MAX_REMEMBERED && logged.insert(user)
        };
        if is_new {
            tracing::warn!(
                user_key = %user.0,
                "the database went back to an earlier state, or this user was erased more than an hour ago: a reader's cursor is past the newest change, and it is served from the beginning"
            );
        }
    }
}
