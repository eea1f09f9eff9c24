//! Readers that show that the database went back to an earlier state: restored, or failed over with a loss.

use crate::protocol::UserKey;
use crate::telemetry::Metrics;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Users that are remembered. Readers of further ones are counted, and get no line.
const MAX_REMEMBERED: usize = 10_000;

/// Whose readers have shown it, so that each user is logged once.
#[derive(Clone, Debug)]
pub(super) struct Rewinds {
    logged: Arc<Mutex<HashSet<UserKey>>>,
    metrics: Arc<Metrics>,
}

impl Rewinds {
    pub(super) fn new(metrics: Arc<Metrics>) -> Rewinds {
        Rewinds { logged: Arc::default(), metrics }
    }

    /// A reader's cursor was past the newest change.
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
