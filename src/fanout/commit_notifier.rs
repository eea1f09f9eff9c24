//! Decides which pushes send their notification within their own commit.
//!
//! A transaction that notifies takes a server-wide lock when it commits, and holds it while the WAL is flushed: with
//! many pushes, they would wait for each other (docs/adr/0003). With few pushes they rarely collide, and a notification
//! with the commit is the earliest possible: the publisher needs another round trip to the database and a transaction
//! of its own. So it is done while the cluster is quiet: while a push has this replica to itself, all replicas together
//! store no more than [`COMMIT_NOTIFY_RATE`](crate::config::FanoutConfig::commit_notify_rate) pushes a second, and
//! their statements, each of which holds the lock for part of its time, take no more than [`SHARE`] of it.

use super::channel_key::ChannelKeys;
use super::commit_payload;
use super::rate::{NotificationCounter, ReplicaCount};
use super::wakeup::Wakeup;
use crate::clock::Clock;
use crate::config::FanoutConfig;
use crate::store::CommitNotice;
use crate::telemetry::Metrics;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The window in which pushes are counted.
const WINDOW: Duration = Duration::from_millis(100);
/// Maximum fraction of the time that the statements of all replicas together may take.
const SHARE: f64 = 1.0;
/// Fraction of the wake budget that may be spent this way.
const BUDGET_SHARE: f64 = 0.5;
/// Weight of the last statement in the moving average, as a divisor.
const WEIGHT: u32 = 8;
/// The time for which that average stays valid.
const LATELY: Duration = Duration::from_secs(5);
/// Back-off after the database refused a notification.
const BACK_OFF: Duration = Duration::from_secs(10);
/// A statement that takes this long keeps everyone else from notifying, so it is followed by a back-off too.
const SLOW_COMMIT: Duration = Duration::from_secs(1);

/// Decides which commits notify, and composes their notifications.
#[derive(Debug)]
pub(super) struct CommitNotifier {
    keys: ChannelKeys,
    replicas: ReplicaCount,
    limits: Limits,
    /// Counts the stores of all replicas that are heard of.
    received: NotificationCounter,
    metrics: Arc<Metrics>,
    clock: Clock,
    load: Mutex<Load>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Maximum rate of pushes of all replicas, per second.
    rate: f64,
    /// Maximum rate of listener wakes, per second.
    wakes: f64,
}

/// The current load.
#[derive(Debug, Default)]
struct Load {
    window: Option<Window>,
    /// Rate of pushes of all replicas, per second.
    rate: f64,
    /// Average duration of a statement, and when it was last measured.
    took: Option<(Duration, Instant)>,
    /// Until when commits do not notify.
    off_until: Option<Instant>,
}

#[derive(Debug)]
struct Window {
    begun: Instant,
    /// Wake-ups that had been received by then.
    received: u64,
    /// Pushes of this replica since then that could have notified with their commits.
    own: u32,
}

impl CommitNotifier {
    /// Creates a notifier from the settings; none if they turn it off.
    pub(super) fn new(
        config: &FanoutConfig,
        keys: ChannelKeys,
        (received, replicas): (NotificationCounter, ReplicaCount),
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Option<CommitNotifier> {
        let limits = Limits {
            rate: f64::from(config.commit_notify_rate),
            wakes: f64::from(config.notify_budget) * BUDGET_SHARE,
        };
        // Without a publisher nothing is to be published.
        let is_on = config.commit_notify_rate > 0 && config.publish_queue > 0;
        is_on.then(|| CommitNotifier { keys, replicas, limits, received, metrics, clock, load: Mutex::default() })
    }

    /// Returns the notification for a push's transaction to send, if it should send one.
    pub(super) fn offer(&self, wakeup: &Wakeup, now: Instant) -> Option<CommitNotice> {
        let received = self.received.wakeups();
        let is_quiet = self.load().is_quiet(now, received, self.replicas.get(), self.limits);
        is_quiet.then(|| commit_payload::compose(&self.keys, self.clock.random_u128(), wakeup))
    }

    /// Records that it was sent, in a statement that took this long.
    pub(super) fn told(&self, took: Duration, now: Instant) {
        self.metrics.notifications_sent.inc();
        self.metrics.notifications_with_commit.inc();
        self.metrics.wakeups_published.inc();
        self.load().note(took, now);
    }

    /// Notes that the database refused a notification, or would have taken it too late.
    pub(super) fn refused(&self, now: Instant) {
        self.load().off_until = Some(now + BACK_OFF);
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    fn is_quiet(&mut self, now: Instant, received: u64, replicas: usize, limits: Limits) -> bool {
        self.count(now, received);
        let took = self.took.filter(|(_, then)| now - *then < LATELY).map_or(0.0, |(took, _)| took.as_secs_f64());
        self.rate <= limits.rate
            && self.rate * took <= SHARE
            && self.rate * replicas as f64 <= limits.wakes
            && self.off_until.is_none_or(|until| now >= until)
    }

    /// Notes how long a statement took.
    fn note(&mut self, took: Duration, now: Instant) {
        let average = match self.took {
            Some((average, then)) if now - then < LATELY => (average * (WEIGHT - 1) + took) / WEIGHT,
            _ => took,
        };
        self.took = Some((average, now));
        if took >= SLOW_COMMIT {
            self.off_until = Some(now + BACK_OFF);
        }
    }

    /// Counts a push.
    fn count(&mut self, now: Instant, received: u64) {
        let begin = Window { begun: now, received, own: 0 };
        let Some(window) = &mut self.window else {
            self.window = Some(begin);
            return;
        };
        window.own += 1;
        let elapsed = now - window.begun;
        if elapsed >= WINDOW {
            // Our own pushes count even if this replica does not hear of them.
            let pushes = received.saturating_sub(window.received).max(u64::from(window.own));
            let elapsed = elapsed.as_secs_f64();
            // An earlier, higher rate decays.
            let before = self.rate * 0.5_f64.powf(elapsed / WINDOW.as_secs_f64());
            self.rate = before.max(pushes as f64 / elapsed);
            self.window = Some(begin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { rate: 250.0, wakes: 20_000.0 };

    /// Simulates `rate` pushes per second that this replica is notified of; returns how many could notify with their commits.
    fn told(load: &mut Load, begin: Instant, rate: u32, seconds: f64, replicas: usize) -> u32 {
        let count = (f64::from(rate) * seconds) as u32;
        let at = |n: u32| begin + Duration::from_secs_f64(f64::from(n) / f64::from(rate));
        (0..count).filter(|n| load.is_quiet(at(*n), u64::from(*n), replicas, LIMITS)).count() as u32
    }

    #[test]
    fn a_quiet_cluster_tells_with_each_commit_and_a_busy_one_with_none_after_a_moment() {
        let begin = Instant::now();
        assert_eq!(told(&mut Load::default(), begin, 200, 5.0, 3), 1_000);
        let mut load = Load::default();
        let at_once = told(&mut load, begin, 1_000, 5.0, 3);
        assert!(at_once <= 101, "those of the first window, not {at_once}");
        // Quiet again.
        assert!(told(&mut load, begin + Duration::from_secs(6), 100, 1.0, 3) >= 85);
    }

    #[test]
    fn many_replicas_tell_within_the_budget_of_wakes() {
        let begin = Instant::now();
        assert_eq!(told(&mut Load::default(), begin, 200, 2.0, 100), 400);
        assert!(told(&mut Load::default(), begin, 200, 2.0, 101) <= 21);
    }

    #[test]
    fn where_commits_take_long_fewer_tell() {
        let begin = Instant::now();
        for (took, expected) in [(4, 400), (6, 21)] {
            let mut load = Load { took: Some((Duration::from_millis(took), begin)), ..Load::default() };
            let told = told(&mut load, begin, 200, 2.0, 3);
            assert!(told.abs_diff(expected) <= 1, "{took} ms: {told}");
        }
    }

    #[test]
    fn a_database_that_takes_no_notification_is_left_alone_for_a_while() {
        let begin = Instant::now();
        let mut load = Load { off_until: Some(begin + BACK_OFF), ..Load::default() };
        let mut is_quiet = |after| load.is_quiet(begin + after, 0, 1, LIMITS);
        assert!(!is_quiet(Duration::from_secs(9)));
        assert!(is_quiet(BACK_OFF));
    }

    #[test]
    fn a_statement_that_kept_everybody_from_notifying_is_the_last_for_a_while() {
        let (begin, mut load) = (Instant::now(), Load::default());
        load.note(SLOW_COMMIT / 2, begin);
        assert!(load.is_quiet(begin, 0, 1, LIMITS), "one that is slow once counts in the average");
        load.note(SLOW_COMMIT, begin);
        assert!(!load.is_quiet(begin + BACK_OFF / 2, 0, 1, LIMITS));
        assert!(load.is_quiet(begin + BACK_OFF, 0, 1, LIMITS));
    }
}
