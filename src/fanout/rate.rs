//! Limits how often notifications are sent.
//!
//! A notification is a commit, and it wakes every replica, here and at the database, whatever it contains: if each
//! replica sent as often as it could, the cost of notifications would grow with the square of the number of replicas.
//! So there is a budget of wakes per second ([`crate::config::FanoutConfig::notify_budget`]), and all replicas together
//! send as many notifications as it pays for: the budget, divided by the number of replicas. There is no coordinator:
//! every replica hears all notifications, including its own, and between two of its own it leaves as much time as those
//! in between are worth. Below the budget that is less than sending takes, and nothing waits. Unsigned notifications
//! use the budget as well, but no more than replicas use themselves, or [`LONGEST_REST`]; those with a wrong signature
//! use nothing.
//!
//! The other bound is the database itself. If sending takes much longer on average than it could, processors are short,
//! and a replica waits a multiple of the excess, the longer the more replicas there are, because each makes a notification
//! more expensive: wake-ups share the next one, and pushes get the time saved.

use crate::db::ShortestLately;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The database counts as busy when sending takes on average more than this multiple of the shortest time seen lately.
const BUSY: u32 = 3;
/// Weight of the last send in that average, as a divisor: a single slow one means nothing.
const WEIGHT: u32 = 8;
/// The time that a replica then waits, as a multiple of the excess, and its maximum.
const REST_FACTOR: u32 = 8;
const LONGEST_REST: Duration = Duration::from_millis(20);
/// Both are for this many replicas. Every other one makes a notification more expensive, and the rest longer, up to
/// this multiple.
const REST_REPLICAS: f64 = 3.0;
const MOST_REST_SHARE: f64 = 10.0;
/// No wake-up waits longer than this, however many replicas there are: the reconcilers find what was stored by then.
const LONGEST: Duration = Duration::from_secs(2);

/// Counts received notifications: the listener counts, the publisher reads.
#[derive(Clone, Debug, Default)]
pub struct NotificationCounter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    signed: AtomicU64,
    unsigned: AtomicU64,
    wakeups: AtomicU64,
}

/// The number received up to some moment.
#[derive(Clone, Copy, Debug)]
struct Received {
    signed: u64,
    unsigned: u64,
}

impl NotificationCounter {
    /// Counts one from a replica, as its signature shows.
    pub(super) fn count(&self) {
        self.0.signed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one without a signature: from a program in SQL, or from a replica of an older version. It costs the same,
    /// but anyone who may connect can send it.
    pub(super) fn count_unsigned(&self) {
        self.0.unsigned.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the wake-ups in one from a replica.
    pub(super) fn count_wakeups(&self, wakeups: u64) {
        self.0.wakeups.fetch_add(wakeups, Ordering::Relaxed);
    }

    /// Returns the number of wake-ups that replicas have sent.
    pub(super) fn wakeups(&self) -> u64 {
        self.0.wakeups.load(Ordering::Relaxed)
    }

    fn so_far(&self) -> Received {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Received { signed: of(&self.0.signed), unsigned: of(&self.0.unsigned) }
    }
}

/// The number of replicas: at least this one.
#[derive(Clone, Debug)]
pub(super) struct ReplicaCount(Arc<AtomicUsize>);

impl Default for ReplicaCount {
    fn default() -> ReplicaCount {
        ReplicaCount(Arc::new(AtomicUsize::new(1)))
    }
}

impl ReplicaCount {
    pub(super) fn set(&self, replicas: usize) {
        self.0.store(replicas.max(1), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Decides when a publisher may send.
#[derive(Debug)]
pub(super) struct RateLimiter {
    received: NotificationCounter,
    replicas: ReplicaCount,
    /// Wakes per second.
    budget: u32,
    last: Option<Sent>,
    /// The shortest time that sending took lately.
    shortest: ShortestLately,
    /// The average time that sending takes.
    average: Duration,
}

/// The last send.
#[derive(Debug)]
struct Sent {
    begun: Instant,
    /// The notifications received when it began.
    received: Received,
    /// Its notifications: they count even if this replica does not hear them.
    notifications: u64,
    /// The time to wait from its beginning because of the database.
    rest: Duration,
}

impl RateLimiter {
    pub(super) fn new(received: NotificationCounter, replicas: ReplicaCount, budget: u32) -> RateLimiter {
        RateLimiter {
            received,
            replicas,
            budget,
            last: None,
            shortest: ShortestLately::default(),
            average: Duration::ZERO,
        }
    }

    /// Waits until it is time to send.
    pub(super) async fn wait(&self) {
        while let Some(time) = self.next().filter(|time| *time > Instant::now()) {
            sleep_until(time).await;
        }
    }

    /// Returns when the next send is allowed, as far as known now.
    fn next(&self) -> Option<Instant> {
        let Sent { begun, received, notifications, rest } = self.last.as_ref()?;
        let now = self.received.so_far();
        let signed = self.worth(now.signed.saturating_sub(received.signed).max(*notifications));
        // Senders without a key cannot delay wake-ups for long, however much they send.
        let unsigned = self.worth(now.unsigned.saturating_sub(received.unsigned)).min(signed.max(LONGEST_REST));
        Some(*begun + (signed + unsigned).min(LONGEST).max(*rest))
    }

    /// Returns the time that this many notifications use of the budget.
    fn worth(&self, notifications: u64) -> Duration {
        let seconds = notifications as f64 * self.replicas.get() as f64 / f64::from(self.budget);
        Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64()))
    }

    /// Notes that a send begins.
    pub(super) fn begin(&mut self, now: Instant) {
        let received = self.received.so_far();
        self.last = Some(Sent { begun: now, received, notifications: 1, rest: Duration::ZERO });
    }

    /// Notes that it has ended, with this many notifications.
    pub(super) fn end(&mut self, now: Instant, notifications: usize) {
        let Some(last) = &mut self.last else { return };
        let took = now - last.begun;
        let shortest = self.shortest.note(took, now);
        self.average = match self.average {
            Duration::ZERO => took,
            average => (average * (WEIGHT - 1) + took) / WEIGHT,
        };
        last.notifications = notifications as u64;
        let excess = self.average.saturating_sub(shortest * BUSY);
        if !excess.is_zero() {
            let rest = (excess * REST_FACTOR).min(LONGEST_REST);
            last.rest = took + rest.mul_f64(rest_share(self.replicas.get()));
        }
    }
}

/// Returns what the time to rest is multiplied by, for so many replicas.
fn rest_share(replicas: usize) -> f64 {
    (replicas as f64 / REST_REPLICAS).clamp(1.0, MOST_REST_SHARE)
}

#[cfg(test)]
mod tests;
