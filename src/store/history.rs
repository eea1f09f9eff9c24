//! Stored changes that have been trimmed away since: they are recognized too if they are sent again (G1).
//!
//! Only changes old enough to have been trimmed are looked up there. A row's id begins with its latest stamp
//! ([`crate::protocol::identity`]), which is enough to tell: a row is trimmed once it was stored `COMPACT_AFTER_MS`
//! ago, and its stamps are at most `MAX_CLOCK_SKEW_MS` ahead of when it was stored (rows that claim later ones are
//! never trimmed).

use crate::clock::Clock;
use crate::config::Config;
use crate::config::compaction::DEFAULT_AFTER;
use crate::db::Micros;
use std::time::Duration;
use uuid::Uuid;

/// How far this replica's clock may lag behind the database's.
const CLOCK_MARGIN: Duration = Duration::from_secs(60);

/// Tells which changes may have been trimmed.
#[derive(Clone, Debug)]
pub(super) struct HistoryHorizon {
    /// The age at which a row is trimmed.
    after: Duration,
    /// How far a row's stamps may be ahead of this replica's clock.
    ahead: Duration,
    clock: Clock,
}

impl HistoryHorizon {
    pub(super) fn new(config: &Config, clock: Clock) -> HistoryHorizon {
        // A replica that does not trim cannot know when others do.
        let after = match config.compaction.compact_after_ms {
            Duration::ZERO => DEFAULT_AFTER,
            after => after,
        };
        HistoryHorizon { after, ahead: config.max_clock_skew_ms + CLOCK_MARGIN, clock }
    }

    /// A log trimmed past this position was trimmed with a shorter horizon than ours, for example by a command: any of
    /// its rows may have been trimmed.
    pub(super) fn latest(&self) -> Micros {
        let latest = (self.clock.since_epoch() + CLOCK_MARGIN).saturating_sub(self.after);
        Micros(i64::try_from(latest.as_micros()).unwrap_or(i64::MAX))
    }

    /// Every row that may have been trimmed has an id below this one, unless its log was trimmed past
    /// [`latest`](Self::latest).
    pub(super) fn ids_below(&self) -> Uuid {
        let millis = (self.clock.since_epoch() + self.ahead).saturating_sub(self.after).as_millis() as u64;
        Uuid::from_u64_pair(millis << 16, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::protocol::Cursor;
    use crate::protocol::push::{StampPolicy, read_push};
    use crate::protocol::stamp::Stamp;

    #[test]
    fn an_id_is_below_once_its_change_is_old_enough() {
        let clock = ManualClock::at_present(1).clock();
        let week =
            HistoryHorizon { after: Duration::from_secs(7 * 86_400), ahead: Duration::ZERO, clock: clock.clone() };
        let now = clock.millis() as i64;
        let id = |age_s: i64| {
            let stamp = Stamp::from_millis(now - age_s * 1000);
            let body = format!(
                r#"{{"clientId":"c","changes":[{{"table":"t","id":"r","op":"update","fields":{{"f":{{"value":1,"at":"{stamp}"}}}}}}]}}"#
            );
            let policy = StampPolicy { now: Stamp::from_millis(now), max_ahead: 0 };
            let push = read_push(body.as_bytes(), None, policy, 1).unwrap();
            assert_eq!(push.since, Cursor::BEGINNING);
            push.row_ids("u", "a")[0]
        };
        assert!(id(7 * 86_400 + 60) < week.ids_below());
        assert!(id(7 * 86_400 - 60) > week.ids_below());
        let second = HistoryHorizon { after: Duration::from_secs(1), ahead: Duration::from_secs(360), clock };
        assert!(id(-300) < second.ids_below(), "its device's clock is ahead");
    }
}
