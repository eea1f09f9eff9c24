//! The health of idle connections.
//!
//! Connections are used without a test, which would cost every request a round trip. Once one turns out to be dead, all
//! that have been idle since before are tested before use. Once one turns out to be useless without failing, because
//! the network has dropped it or its server is a standby now, all that have been idle since before are discarded
//! untested.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// What is known about a pool's connections.
#[derive(Clone, Debug, Default)]
pub(super) struct PoolHealth(Arc<Mutex<Found>>);

/// When connections of each kind were last found.
#[derive(Debug, Default)]
struct Found {
    dead: Option<Instant>,
    useless: Option<Instant>,
}

/// The state of a connection that has been idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionState {
    Trusted,
    Suspect,
    Useless,
}

impl PoolHealth {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a connection was dead: the others must be tested.
    pub(super) fn found_dead(&self) {
        self.found().dead = Some(Instant::now());
    }

    /// Records that a connection was useless without failing: no idle one is worth a test.
    pub(super) fn found_useless(&self) {
        self.found().useless = Some(Instant::now());
    }

    pub(super) fn state(&self, idle_since: Instant) -> ConnectionState {
        let found = self.found();
        let was_there = |at: Option<Instant>| at.is_some_and(|at| idle_since <= at);
        match (was_there(found.useless), was_there(found.dead)) {
            (true, _) => ConnectionState::Useless,
            (false, true) => ConnectionState::Suspect,
            (false, false) => ConnectionState::Trusted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_what_was_idle_before_is_concerned() {
        let health = PoolHealth::default();
        let before = Instant::now();
        assert_eq!(health.state(before), ConnectionState::Trusted);
        health.found_dead();
        assert_eq!(health.state(before), ConnectionState::Suspect);
        health.found_useless();
        assert_eq!(health.state(before), ConnectionState::Useless);
        let later = Instant::now() + Duration::from_millis(1);
        assert_eq!(health.state(later), ConnectionState::Trusted, "it came back to the pool afterwards");
    }
}
