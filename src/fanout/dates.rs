//! Dates the messages of replicas, with clocks that may be set.

use std::time::Duration;
use tokio::time::Instant;

/// Maximum difference between a message's date and our clock. Replicas that have gone are remembered for twice as long,
/// so that nobody brings one back by repeating its messages.
pub(super) const MAX_AGE: Duration = Duration::from_secs(120);

/// A clock that keeps advancing when the machine's is set back: later messages of a replica have later dates whatever
/// happens to its clock, and the messages of others do not all become too old at once.
#[derive(Debug, Default)]
pub(super) struct Dates {
    /// A date, in milliseconds since the epoch, and the instant it belongs to.
    last: Option<(u64, Instant)>,
    /// The date of the last message.
    said: u64,
}

impl Dates {
    fn now(&mut self, clock: u64, now: Instant) -> u64 {
        let steady = self.last.map_or(0, |(at, then)| at + now.saturating_duration_since(then).as_millis() as u64);
        if clock >= steady {
            self.last = Some((clock, now));
        }
        clock.max(steady)
    }

    /// Returns the date of a message written now.
    pub(super) fn of_message(&mut self, clock: u64, now: Instant) -> u64 {
        let date = self.now(clock, now);
        // After the last message, unless that was dated by a clock that has been corrected since.
        self.said =
            if self.said.saturating_sub(date) < MAX_AGE.as_millis() as u64 { date.max(self.said + 1) } else { date };
        self.said
    }

    /// Returns how far this date is off in milliseconds; none if it is close enough. If the machine's clock was set
    /// back and other replicas agree with it, it was wrong before, and is followed.
    pub(super) fn off_by(&mut self, at: u64, clock: u64, now: Instant) -> Option<u64> {
        let is_near = |date: u64| at.abs_diff(date) <= MAX_AGE.as_millis() as u64;
        if is_near(self.now(clock, now)) {
            return None;
        }
        if is_near(clock) {
            self.last = Some((clock, now));
            return None;
        }
        Some(at.abs_diff(clock))
    }
}
