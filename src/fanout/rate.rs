//! How often notifications are sent.
//!
//! A notification is a commit, and it wakes every replica, here and at the database, whatever is in it: if each sent as
//! often as it could, what notifications cost would grow with the square of the replicas. So there is a budget of wakes
//! in a second ([`crate::config::FanoutConfig::notify_budget`]), and all replicas together send as many notifications as
//! it pays for: the budget, divided by the replicas. Nobody hands it out: every replica hears all notifications, its own
//! too, and between two of its own it leaves as much time as those in between are worth. Where the budget is not reached
//! that is less than sending takes, and nothing waits. Those without a signature take from the budget as well, but not
//! more than twice what replicas send themselves, or [`LONGEST_REST`]; what has a wrong signature takes nothing.
//!
//! The other bound is the database itself. Where sending takes much longer on average than it can take, processors are
//! short, and a replica waits a multiple of the excess: wake-ups share the next notification, and pushes get what it saves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What sending may take on average, of the shortest time that it has taken lately, before the database counts as busy.
const BUSY: u32 = 3;
/// What the last time counts in that average, as one in so many: a single one that is slow is no sign.
const WEIGHT: u32 = 8;
/// How many times the excess a replica then waits, and at most.
const REST_FACTOR: u32 = 8;
const LONGEST_REST: Duration = Duration::from_millis(20);
/// The shortest time that sending took counts for about so long; then a longer one may take its place.
const LATELY: Duration = Duration::from_secs(60);
/// No wake-up waits longer than this, however many replicas there are: the reconcilers find what was stored by then.
const LONGEST: Duration = Duration::from_secs(2);

/// How many notifications were received; the listener counts, the publisher looks.
#[derive(Clone, Debug, Default)]
pub struct NotificationCounter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    signed: AtomicU64,
    unsigned: AtomicU64,
}

/// What was received up to some moment.
#[derive(Clone, Copy, Debug)]
struct Received {
    signed: u64,
    unsigned: u64,
}

impl NotificationCounter {
    /// One of a replica, as its signature shows.
    pub(super) fn count(&self) {
        self.0.signed.fetch_add(1, Ordering::Relaxed);
    }

    /// One of a form that has no signature: of a program in SQL, or of a replica of an older version. It costs the same;
    /// but whoever may connect can send it.
    pub(super) fn count_unsigned(&self) {
        self.0.unsigned.fetch_add(1, Ordering::Relaxed);
    }

    fn so_far(&self) -> Received {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Received { signed: of(&self.0.signed), unsigned: of(&self.0.unsigned) }
    }
}

/// How many replicas there are: at least this one.
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

/// When one publisher may send.
#[derive(Debug)]
pub(super) struct RateLimiter {
    received: NotificationCounter,
    replicas: ReplicaCount,
    /// Wakes in a second.
    budget: u32,
    last: Option<Sent>,
    /// The shortest time that sending took lately, and when it was last looked at.
    shortest: Option<(Duration, Instant)>,
    /// What it takes on average.
    average: Duration,
}

/// What was last sent.
#[derive(Debug)]
struct Sent {
    begun: Instant,
    /// What had been received when it began.
    received: Received,
    /// Its notifications: they count even where this replica does not hear them.
    notifications: u64,
    /// What is waited from its beginning because of the database.
    rest: Duration,
}

impl RateLimiter {
    pub(super) fn new(received: NotificationCounter, replicas: ReplicaCount, budget: u32) -> RateLimiter {
        RateLimiter { received, replicas, budget, last: None, shortest: None, average: Duration::ZERO }
    }

    /// Waits until it is time to send.
    pub(super) async fn wait(&self) {
        while let Some(time) = self.next().filter(|time| *time > Instant::now()) {
            sleep_until(time).await;
        }
    }

    /// From when on something may be sent, as far as can be told now.
    fn next(&self) -> Option<Instant> {
        let Sent { begun, received, notifications, rest } = self.last.as_ref()?;
        let now = self.received.so_far();
        let signed = self.worth(now.signed.saturating_sub(received.signed).max(*notifications));
        // Nobody without a key makes wake-ups wait for long, however much it sends.
        let unsigned = self.worth(now.unsigned.saturating_sub(received.unsigned)).min(signed.max(LONGEST_REST));
        Some(*begun + (signed + unsigned).min(LONGEST).max(*rest))
    }

    /// How much time of the budget so many notifications take.
    fn worth(&self, notifications: u64) -> Duration {
        let seconds = notifications as f64 * self.replicas.get() as f64 / f64::from(self.budget);
        Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64()))
    }

    /// Something is being sent from now on.
    pub(super) fn begin(&mut self, now: Instant) {
        let received = self.received.so_far();
        self.last = Some(Sent { begun: now, received, notifications: 1, rest: Duration::ZERO });
    }

    /// It has been sent now, in so many notifications.
    pub(super) fn end(&mut self, now: Instant, notifications: usize) {
        let Some(last) = &mut self.last else { return };
        let took = now - last.begun;
        let shortest = match self.shortest {
            Some((shortest, then)) => {
                let grown = shortest.mul_f64(1.0 + (now - then).as_secs_f64() / LATELY.as_secs_f64());
                took.min(grown)
            }
            None => took,
        };
        self.shortest = Some((shortest, now));
        self.average = match self.average {
            Duration::ZERO => took,
            average => (average * (WEIGHT - 1) + took) / WEIGHT,
        };
        last.notifications = notifications as u64;
        let excess = self.average.saturating_sub(shortest * BUSY);
        if !excess.is_zero() {
            last.rest = took + (excess * REST_FACTOR).min(LONGEST_REST);
        }
    }
}

#[cfg(test)]
mod tests;
