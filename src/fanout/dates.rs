//! The dates of what replicas say of themselves, by clocks that may be set.

use std::time::Duration;
use tokio::time::Instant;

/// How old a message may be, or how far ahead its date, by clocks that differ. So long, too, those that are gone are
/// remembered: nobody brings one back by repeating what it said.
pub(super) const MAX_AGE: Duration = Duration::from_secs(120);

/// A clock that goes on where the machine's is set back: what a replica says later has a later date, whatever happens to its
/// clock, and what others say is not too old all at once.
#[derive(Debug, Default)]
pub(super) struct Dates {
    /// A date, in milliseconds since the epoch, and when it was that.
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

    /// The date of a message that is written now.
    pub(super) fn of_message(&mut self, clock: u64, now: Instant) -> u64 {
        let date = self.now(clock, now);
        // After the last one, unless that was dated by a clock which has been put right since.
        self.said =
            if self.said.saturating_sub(date) < MAX_AGE.as_millis() as u64 { date.max(self.said + 1) } else { date };
        self.said
    }

    /// How far this date is off, in milliseconds; none if it is near enough. Where the machine's clock was set back and others
    /// agree with it, it was wrong before, and is followed.
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
