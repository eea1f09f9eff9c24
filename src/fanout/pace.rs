//! How often notifications are sent.
//!
//! A notification is a commit, and it wakes every replica whatever is in it. If each replica sent as often as it could,
//! what notifications cost would grow with the square of the replicas, and be paid by pushes. So the cluster has a rate
//! that all share. Nobody hands it out: every replica hears all notifications, its own too, and between two of its own it
//! leaves as much time as those that it heard in between are worth. At rest nobody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Notifications of all replicas together in a second, about, where there would be more.
const PER_SECOND: f64 = 400.0;
/// After one that took long to send, the database being busy, a replica waits so many times as long.
const PATIENCE: u32 = 8;
/// No wake-up waits longer than this.
const LONGEST: Duration = Duration::from_millis(20);

/// How many notifications were heard; the listener counts, the publisher looks.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<AtomicU64>);

impl Heard {
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn so_far(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// When one publisher may send.
#[derive(Debug)]
pub(super) struct Pace {
    heard: Heard,
    /// When it last began to send, and what had been heard by then.
    last: Option<(Instant, u64)>,
    /// What it waits from then because of the database.
    rest: Duration,
}

impl Pace {
    pub(super) fn new(heard: Heard) -> Pace {
        Pace { heard, last: None, rest: Duration::ZERO }
    }

    /// Waits until it is time to send.
    pub(super) async fn wait(&self) {
        while let Some(time) = self.next().filter(|time| *time > Instant::now()) {
            sleep_until(time).await;
        }
    }

    /// From when on something may be sent, as far as can be told now.
    fn next(&self) -> Option<Instant> {
        let (begun, heard) = self.last?;
        let worth = Duration::from_secs_f64(self.heard.so_far().saturating_sub(heard) as f64 / PER_SECOND);
        Some(begun + worth.max(self.rest).min(LONGEST))
    }

    /// Something is being sent: so many wake-ups.
    pub(super) fn begin(&mut self) {
        self.last = Some((Instant::now(), self.heard.so_far()));
        self.rest = Duration::ZERO;
    }

    /// It was sent. Where wake-ups share notifications already, the time that it took counts.
    pub(super) fn end(&mut self, wakeups: usize) {
        if let Some((begun, _)) = self.last.filter(|_| wakeups > 1) {
            self.rest = begun.elapsed() * PATIENCE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notifications in a second of publishers that always have something to send, which takes them a millisecond.
    async fn rates(publishers: usize) -> Vec<usize> {
        let heard = Heard::default();
        let until = Instant::now() + Duration::from_secs(1);
        let publish = |_| {
            let (everybody, mut pace) = (heard.clone(), Pace::new(heard.clone()));
            async move {
                let mut sent = 0;
                while Instant::now() < until {
                    pace.begin();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    everybody.count();
                    sent += 1;
                    pace.end(1);
                    pace.wait().await;
                }
                sent
            }
        };
        futures_util::future::join_all((0..publishers).map(publish)).await
    }

    #[tokio::test]
    async fn all_replicas_together_keep_to_the_rate() {
        for publishers in [1, 3, 8] {
            let rates = rates(publishers).await;
            assert!(rates.iter().sum::<usize>() <= 450, "{publishers}: {rates:?}");
            assert!(rates.iter().all(|rate| *rate >= 10), "{publishers}: {rates:?}");
        }
    }

    #[test]
    fn at_rest_nothing_waits() {
        let heard = Heard::default();
        let mut pace = Pace::new(heard.clone());
        assert_eq!(pace.next(), None, "the first one");
        pace.begin();
        heard.count();
        pace.end(1);
        let (begun, _) = pace.last.unwrap();
        assert_eq!(pace.next().unwrap() - begun, Duration::from_micros(2_500), "one that comes later goes at once");
    }

    #[test]
    fn a_wake_up_waits_for_a_busy_database_and_for_a_busy_cluster_but_not_for_long() {
        let heard = Heard::default();
        let mut pace = Pace::new(heard.clone());
        let waits = |pace: &Pace| pace.next().unwrap() - pace.last.unwrap().0;
        pace.begin();
        while pace.last.unwrap().0.elapsed() < Duration::from_millis(2) {}
        pace.end(2);
        assert!(waits(&pace) >= Duration::from_millis(10));

        pace.begin();
        (0..10_000).for_each(|_| heard.count());
        pace.end(1);
        assert_eq!(waits(&pace), LONGEST);
    }
}
