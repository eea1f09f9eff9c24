//! Logs that could not be trimmed, and when each is retried: one that is unreadable, locked, or refused by the database
//! must not block the others.

use crate::protocol::LogId;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Maximum pause.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of logs remembered; beyond it, the one due soonest is forgotten.
const LOGS: usize = 10_000;

/// Known only to this replica: it does no harm if several replicas try the same log.
#[derive(Debug, Default)]
pub(super) struct Postponed(HashMap<LogId, Pause>);

#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl Postponed {
    /// Records that a log could not be trimmed, and returns the pause: `least` the first time, then twice as long each
    /// time.
    pub(super) fn note(&mut self, log: LogId, least: Duration, now: Instant) -> Duration {
        let length = self.0.get(&log).map_or(least, |pause| pause.length * 2).min(LONGEST);
        if self.0.len() >= LOGS
            && !self.0.contains_key(&log)
            && let Some(next) = self.0.iter().min_by_key(|(_, pause)| pause.until).map(|(log, _)| *log)
        {
            self.0.remove(&next);
        }
        self.0.insert(log, Pause { until: now + length, length });
        length
    }

    /// Records that a log was trimmed.
    pub(super) fn forget(&mut self, log: LogId) {
        self.0.remove(&log);
    }

    /// Returns the logs that are paused now.
    pub(super) fn logs(&mut self, now: Instant) -> Vec<Uuid> {
        // Logs erased meanwhile are never mentioned again.
        self.0.retain(|_, pause| pause.until + LONGEST > now);
        self.0.iter().filter(|(_, pause)| pause.until > now).map(|(log, _)| log.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_log_is_trimmed() {
        let (mut postponed, now, second) = (Postponed::default(), Instant::now(), Duration::from_secs(1));
        let log = LogId(Uuid::from_u128(1));
        let pauses: Vec<u64> = (0..4).map(|_| postponed.note(log, second, now).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8]);
        assert_eq!(postponed.logs(now + 7 * second), [log.0]);
        assert!(postponed.logs(now + 8 * second).is_empty());
        assert_eq!(postponed.note(log, second, now + 8 * second).as_secs(), 16, "it is remembered");
        let longest = (0..40).map(|_| postponed.note(log, second, now)).max();
        assert_eq!(longest, Some(LONGEST));
        postponed.forget(log);
        assert_eq!(postponed.note(log, second, now), second);
    }

    #[test]
    fn so_many_are_remembered_and_no_more() {
        let (mut postponed, now) = (Postponed::default(), Instant::now());
        let log = |n: usize| LogId(Uuid::from_u128(n as u128));
        for n in 0..=LOGS {
            postponed.note(log(n), Duration::from_secs(1 + n as u64), now);
        }
        let logs = postponed.logs(now);
        assert_eq!(logs.len(), LOGS);
        assert!(!logs.contains(&log(0).0) && logs.contains(&log(LOGS).0), "the next to be tried is forgotten");
    }
}
