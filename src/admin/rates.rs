//! Tracks a replica's recent load by sampling its counters every second.

use super::report::{Latencies, Latency, Rates, Refused, Second};
use crate::telemetry::Metrics;
use prometheus::Histogram;
use prometheus::core::Metric as _;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// The sampling interval.
const PERIOD: Duration = Duration::from_secs(1);
/// Number of samples that rates are computed over.
const WINDOW: usize = 10;
/// Number of samples kept.
const KEPT: usize = 300;

/// A sample of a replica's counters.
#[derive(Clone, Debug)]
struct Look {
    at: Instant,
    pushes: u64,
    changes: u64,
    wakeups: u64,
    closes: u64,
    requests: u64,
    refusals: HashMap<(&'static str, &'static str), u64>,
    wakeup: Buckets,
    push: Buckets,
    connections: i64,
}

#[derive(Clone, Debug, Default)]
struct Buckets {
    /// Upper bounds in seconds, and the number of values up to each.
    counts: Vec<(f64, u64)>,
    total: u64,
}

/// The samples of the counters.
#[derive(Clone, Debug)]
pub struct Recent {
    metrics: Arc<Metrics>,
    looks: Arc<Mutex<VecDeque<Look>>>,
}

impl Recent {
    /// Creates an instance without samples.
    pub fn new(metrics: Arc<Metrics>) -> Recent {
        Recent { metrics, looks: Arc::default() }
    }

    /// Samples the counters every second until told to stop.
    pub async fn watch(self, stop: CancellationToken) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let look = look(&self.metrics);
            let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
            looks.push_back(look);
            while looks.len() > KEPT + 1 {
                looks.pop_front();
            }
        }
    }

    /// Returns rates, latencies and refusals by reason over the last ten seconds, most frequent refusals first.
    pub fn summary(&self) -> (Rates, Latencies, Vec<Refused>) {
        let now = look(&self.metrics);
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let before = looks.get(looks.len().saturating_sub(WINDOW)).unwrap_or(&now);
        let seconds = (now.at - before.at).as_secs_f64();
        let rate =
            |now: u64, before: u64| if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 };
        let refused = |look: &Look| look.refusals.values().sum::<u64>();
        let rates = Rates {
            pushes: rate(now.pushes, before.pushes),
            changes: rate(now.changes, before.changes),
            wakeups: rate(now.wakeups, before.wakeups),
            refusals: rate(refused(&now), refused(before)),
            requests: rate(now.requests, before.requests),
            closes: rate(now.closes, before.closes),
        };
        let latency = Latencies { wakeup: now.wakeup.since(&before.wakeup), push: now.push.since(&before.push) };
        let mut refusals: Vec<Refused> = now
            .refusals
            .iter()
            .map(|(key, total)| Refused {
                endpoint: key.0.to_owned(),
                reason: key.1.to_owned(),
                total: *total,
                per_second: rate(*total, before.refusals.get(key).copied().unwrap_or_default()),
            })
            .collect();
        refusals.sort_by(|a, b| b.per_second.total_cmp(&a.per_second).then(b.total.cmp(&a.total)));
        (rates, latency, refusals)
    }

    /// Returns the last five minutes, second by second, newest last.
    pub fn seconds(&self) -> Vec<Second> {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = looks.iter().zip(looks.iter().skip(1));
        pairs.map(|(before, now)| second(before, now)).collect()
    }
}

fn second(before: &Look, now: &Look) -> Second {
    let seconds = (now.at - before.at).as_secs_f64();
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    Second {
        pushes: rate(now.pushes, before.pushes),
        refusals: rate(now.refusals.values().sum(), before.refusals.values().sum()),
        wakeups: rate(now.wakeups, before.wakeups),
        connections: now.connections,
        wakeup_p99: now.wakeup.since(&before.wakeup).p99,
    }
}

fn look(metrics: &Metrics) -> Look {
    let total = |name: &prometheus::IntCounterVec, labels: &[&str]| -> u64 {
        labels.iter().map(|label| name.with_label_values(&[label]).get()).sum()
    };
    let refusals: HashMap<_, _> =
        metrics.refusals.counts().map(|(endpoint, reason, count)| ((endpoint, reason), count)).collect();
    Look {
        at: Instant::now(),
        pushes: total(&metrics.pushes, &["stored", "empty", "retried"]),
        changes: metrics.changes_stored.get(),
        wakeups: metrics.delivery_seconds.get_sample_count(),
        closes: total(&metrics.closes, crate::protocol::close::CloseReason::LABELS),
        requests: metrics.refusals.accepted() + refusals.values().sum::<u64>(),
        refusals,
        wakeup: Buckets::of(&metrics.delivery_seconds),
        push: Buckets::of(&metrics.push_seconds),
        connections: metrics.connections.get(),
    }
}

impl Buckets {
    fn of(histogram: &Histogram) -> Buckets {
        let metric = histogram.metric();
        let buckets = metric.get_histogram().get_bucket();
        let counts = buckets.iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect();
        Buckets { counts, total: metric.get_histogram().get_sample_count() }
    }

    /// Returns what was measured since `before`.
    fn since(&self, before: &Buckets) -> Latency {
        let count = self.total.saturating_sub(before.total);
        let counts: Vec<(f64, u64)> = self
            .counts
            .iter()
            .enumerate()
            .map(|(n, (bound, now))| (*bound, now - before.counts.get(n).map_or(0, |(_, count)| *count).min(*now)))
            .collect();
        let quantile = |of: f64| {
            let wanted = ((count as f64 * of).ceil() as u64).max(1);
            let most = counts.last().map(|(bound, _)| *bound);
            let within = counts.iter().find(|(_, below)| *below >= wanted).map(|(bound, _)| *bound);
            (count > 0).then(|| within.or(most)).flatten()
        };
        Latency { p50: quantile(0.5), p99: quantile(0.99), count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_ten_seconds_and_latencies_as_exact_as_the_buckets() {
        let metrics = Arc::new(Metrics::new());
        let (recent, now) = (Recent::new(metrics.clone()), Instant::now());
        let note = |seconds_ago: u64| {
            let look = Look { at: now - Duration::from_secs(seconds_ago), ..look(&metrics) };
            recent.looks.lock().unwrap().push_back(look);
        };
        metrics.pushes.with_label_values(&["stored"]).inc_by(1_000_000);
        (5..40).rev().for_each(note);
        metrics.pushes.with_label_values(&["stored"]).inc_by(475);
        metrics.pushes.with_label_values(&["retried"]).inc_by(475);
        (0..98).for_each(|_| metrics.delivery_seconds.observe(0.0015));
        (0..2).for_each(|_| metrics.delivery_seconds.observe(0.3));
        (1..5).rev().for_each(note);
        let (rates, latency, refusals) = recent.summary();
        assert!((90.0..=95.0).contains(&rates.pushes), "{rates:?}");
        assert_eq!(latency.wakeup, Latency { p50: Some(0.002), p99: Some(0.5), count: 100 });
        assert_eq!((latency.push, refusals), (Latency::default(), vec![]));
        let seconds = recent.seconds();
        let busy = seconds.iter().filter(|second| second.pushes > 900.0 && second.wakeup_p99 == Some(0.5)).count();
        assert_eq!((seconds.len(), busy), (38, 1));
        (0..10).for_each(|_| note(0));
        let (rates, latency, _) = recent.summary();
        assert_eq!((rates.pushes, latency.wakeup.count), (0.0, 0), "that was long ago");
    }

    #[test]
    fn what_is_beyond_all_buckets_is_the_last_ones() {
        let metrics = Metrics::new();
        let before = Buckets::of(&metrics.delivery_seconds);
        metrics.delivery_seconds.observe(1e9);
        let latency = Buckets::of(&metrics.delivery_seconds).since(&before);
        assert_eq!(latency, Latency { p50: Some(10.0), p99: Some(10.0), count: 1 });
    }
}
