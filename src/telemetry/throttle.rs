//! Rate-limited log lines, for messages that every request would cause while something is unavailable.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Default minimum time between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// One kind of line, owned by its writer: each replica in a process logs its own. A `static` only where the writer has
/// no state.
#[derive(Debug)]
pub struct Throttle {
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    written: Option<Instant>,
    unwritten: u64,
}

impl Throttle {
    /// Creates a throttle whose line has not been written yet.
    pub const fn new() -> Throttle {
        Throttle::every(PAUSE)
    }

    /// Creates a throttle for a line written at most once in this period.
    pub const fn every(pause: Duration) -> Throttle {
        Throttle { pause, state: Mutex::new(State { written: None, unwritten: 0 }) }
    }

    /// If the line is due now, returns the number suppressed since the last one.
    pub fn is_due(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.written.is_some_and(|written| written.elapsed() < self.pause) {
            state.unwritten += 1;
            return None;
        }
        state.written = Some(Instant::now());
        Some(std::mem::take(&mut state.unwritten))
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Throttle::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_at_once_and_then_once_in_a_while_with_how_often_it_was_not() {
        let line = Throttle::new();
        assert_eq!(line.is_due(), Some(0));
        assert_eq!((line.is_due(), line.is_due()), (None, None));
        line.state.lock().unwrap().written = Instant::now().checked_sub(PAUSE);
        assert_eq!(line.is_due(), Some(2));
        assert_eq!(line.is_due(), None);
    }
}
