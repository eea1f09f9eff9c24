//! What is known of connections that are idle.
//!
//! They are lent without a test, which would cost every request a round trip. Once one turns out dead, what has been
//! idle since before is tested before it is used; once one turns out to be of no use and not to say so, because the
//! network has forgotten it or its server is a standby now, what has been idle since before is dropped untested.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// What is known of a pool's connections.
#[derive(Clone, Debug, Default)]
pub(super) struct PoolHealth(Arc<Mutex<Found>>);

/// When connections of each kind were last found.
#[derive(Debug, Default)]
struct Found {
    dead: Option<Instant>,
    useless: Option<Instant>,
}

/// What is thought of a connection that has been idle.
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

    /// A connection was found dead: the others have to show that they are not.
    pub(super) fn found_dead(&self) {
        self.found().dead = Some(Instant::now());
    }

    /// A connection was found to be of no use and not to say so: none that is idle now is worth a test.
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
