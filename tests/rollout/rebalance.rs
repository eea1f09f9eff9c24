//! Replicas are added, and the existing ones give them their share of the connections: each ends up within a tenth of
//! the mean, no client is closed twice, and pushes are as fast as before and after.

use crate::Rehearsal;
use crate::push_times;
use mana_dev::wait;
use std::time::Instant;

/// Number of windows that a session must be old before it may be closed; see `src/session/rebalance.rs`.
const AGE: u32 = 3;

impl Rehearsal {
    /// Adds this many replicas, and waits until connections are even and no more are closed.
    pub async fn add_and_rebalance(&mut self, count: usize) {
        let journal = self.clients.journal.clone();
        // The baseline: pushes while nothing happens, for as long as sessions take to become old enough.
        let calm = Instant::now();
        tokio::time::sleep(self.size.rebalance * (AGE + 1)).await;
        let before = journal.push_times("before", calm);
        let closes = journal.closes();

        self.start(count).await;
        let (ready, enough) = (Instant::now(), journal.pushes() + push_times::ENOUGH);
        let even = wait::until(self.size.rebalanced, async || self.is_even().await.then_some(())).await;
        let took = ready.elapsed();
        wait::until(self.size.even, async || (journal.pushes() >= enough).then_some(())).await;
        let during = journal.push_times("meanwhile", ready);
        // Wait for ongoing work to end: until nobody has been closed for a whole window.
        let (calm, mut total) = (Instant::now(), usize::MAX);
        while total != journal.closes().values().sum::<usize>() {
            total = journal.closes().values().sum();
            tokio::time::sleep(self.size.rebalance).await;
        }
        // For the same time, to compare as many pushes.
        tokio::time::sleep(took.saturating_sub(calm.elapsed())).await;
        let after = journal.push_times("afterwards", calm);
        let spread = self.spread().await;
        if even.is_none() || !self.is_even().await {
            journal.violated(format!("not within a tenth of the mean, or not for long, after {took:?}: {spread:?}"));
        }
        let closed_since = |name: &String, count: &usize| count - closes.get(name).unwrap_or(&0);
        let closed: Vec<usize> = journal.closes().iter().map(|(name, count)| closed_since(name, count)).collect();
        let (once, twice) = (closed.iter().sum::<usize>(), closed.iter().filter(|closed| **closed > 1).count());
        if twice > 0 {
            journal.violated(format!("{twice} clients were closed twice while connections were rebalanced"));
        }
        if let Some(slower) = push_times::slower(&before, &during, &after, self.size.slower) {
            journal.violated(format!("{slower}, while connections were rebalanced"));
        }
        let (at, replicas) = (self.begun.elapsed(), spread.len());
        println!("{at:5.1?} {replicas} replicas: even {took:.1?} after they were ready, {once} closed: {spread:?}");
    }

    /// The number of connections of each replica.
    async fn spread(&self) -> Vec<u64> {
        self.fleet.spread(&self.cluster.http).await
    }

    /// True if all clients are connected, and each replica is within a tenth of the mean, or within one connection of
    /// it.
    async fn is_even(&self) -> bool {
        let spread = self.spread().await;
        let mean = self.size.clients() as f64 / spread.len() as f64;
        let is_near = |has: &u64| (*has as f64 - mean).abs() <= (mean / 10.0).max(1.0);
        spread.iter().sum::<u64>() == self.size.clients() as u64 && spread.iter().all(is_near)
    }
}
