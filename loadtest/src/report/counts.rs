//! The number of operations, and how long they took.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::histogram::LatencyHistogram;

/// The number of operations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Operations whose time had come, sent or not.
    pub intended: u64,
    /// Operations that were sent.
    pub sent: u64,
    /// Operations answered correctly.
    pub done: u64,
    /// Failed operations, by kind. Kinds are few and fixed: `status_503`, `timeout`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
}

impl Counts {
    /// Failed operations of all kinds.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Adds those of another second or worker.
    pub fn add(&mut self, other: &Self) {
        self.intended += other.intended;
        self.sent += other.sent;
        self.done += other.done;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }
}

/// Latencies in seconds; missing if there were none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Percentiles {
    /// The mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_seconds: Option<f64>,
    /// Half took no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_seconds: Option<f64>,
    /// Nine of ten took no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p90_seconds: Option<f64>,
    /// 99 of 100 took no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_seconds: Option<f64>,
    /// 999 of 1,000 took no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_seconds: Option<f64>,
    /// The longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<f64>,
}

impl From<&LatencyHistogram> for Percentiles {
    fn from(histogram: &LatencyHistogram) -> Self {
        Self {
            mean_seconds: histogram.mean_seconds(),
            p50_seconds: histogram.quantile_seconds(0.5),
            p90_seconds: histogram.quantile_seconds(0.9),
            p99_seconds: histogram.quantile_seconds(0.99),
            p999_seconds: histogram.quantile_seconds(0.999),
            max_seconds: histogram.max_seconds(),
        }
    }
}
