//! The status of the listener.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The status of the listener, shared with the readiness probe.
#[derive(Clone, Debug, Default)]
pub struct ListenerStatus(Arc<ListenerState>);

#[derive(Debug, Default)]
struct ListenerState {
    is_up: AtomicBool,
    /// The problem that an operator has to fix before anything can be received.
    problem: Mutex<Option<String>>,
}

impl ListenerStatus {
    /// True if the listener is connected and listening.
    pub fn is_up(&self) -> bool {
        self.0.is_up.load(Ordering::Relaxed)
    }

    /// Returns what an operator has to fix before anything can be received; none if it is not known.
    pub fn problem(&self) -> Option<String> {
        self.0.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, is_up: bool) -> bool {
        if is_up {
            self.set_problem(None);
        }
        self.0.is_up.swap(is_up, Ordering::Relaxed)
    }

    pub(super) fn set_problem(&self, problem: Option<String>) {
        *self.0.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}
