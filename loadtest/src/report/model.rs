//! The one JSON file of a run. Names say the unit; times within a run count from its start.
//!
//! A reader takes what it knows and leaves the rest: members are added without a new [`SCHEMA_VERSION`], which counts
//! only what changes the meaning of a member or removes one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::histogram::LatencyHistogram;

pub use super::growth::{Growth, GrowthLine};
pub use super::judged::{Check, Generator, Limit, Measurement, Ratio, Threshold, Unit};
pub use super::series::{GeneratorSecond, OperationSecond, ReplicaSample, Second};

/// Of the form of this file.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything about one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub schema_version: u32,
    /// The scenario's name, or the command's.
    pub name: String,
    /// What it is for, in a sentence.
    pub description: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub ended_at: String,
    pub tool: Build,
    pub machine: Machine,
    /// In the order of [`Second::replicas`].
    pub replicas: Vec<Replica>,
    pub database: Option<Database>,
    pub settings: Settings,
    pub phases: Vec<Phase>,
    pub operations: Vec<Operation>,
    pub checks: Vec<Check>,
    pub thresholds: Vec<Threshold>,
    pub ratios: Vec<Ratio>,
    pub growth: Vec<Growth>,
    pub generator: Generator,
    /// The timeline of it, second by second.
    pub series: Vec<Second>,
}

impl Report {
    /// Whether every check and every threshold passed. Goals of ratios and limits on
    /// growth are told, and fail nothing.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed) && self.thresholds.iter().all(|threshold| threshold.passed)
    }

    /// Whether a second ended within a measured phase.
    pub fn is_measured(&self, second: &Second) -> bool {
        Phase::any_measured(&self.phases, second)
    }

    /// The operation of this name.
    pub fn operation(&self, name: &str) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.name == name)
    }
}

/// A program that took part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Build {
    pub name: String,
    pub version: String,
    /// `release` or `debug`; empty: not known.
    pub profile: String,
}

/// Where the generator ran. If the replicas ran elsewhere, `description` should say so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    pub cpu_model: String,
    pub cpu_cores: u64,
    pub memory_bytes: u64,
    pub kernel: String,
    pub os: String,
}

/// One replica whose `/metrics` was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replica {
    /// Short, for a legend.
    pub name: String,
    /// Its base URL.
    pub url: String,
    /// From `mana_sync_build_info`, as last seen; empty: it never answered.
    pub version: String,
}

/// The PostgreSQL behind the replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Database {
    pub version: String,
    /// Name and value as PostgreSQL shows them.
    pub settings: BTreeMap<String, String>,
}

/// What the run was asked to do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Base URLs that the load went to.
    pub targets: Vec<String>,
    /// The scenario as it was run, overrides of the command line included.
    pub scenario: serde_json::Value,
}

/// A range of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    pub name: String,
    pub start_seconds: f64,
    pub end_seconds: f64,
    /// Whether it counts for the totals; a warm-up does not.
    pub measured: bool,
}

impl Phase {
    /// Whether the second ended within one of these that is measured.
    pub(super) fn any_measured(phases: &[Self], second: &Second) -> bool {
        let within = |phase: &Self| phase.start_seconds < second.at_seconds && second.at_seconds <= phase.end_seconds;
        phases.iter().any(|phase| phase.measured && within(phase))
    }
}

/// One kind of request or delivery, over all measured phases.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operation {
    pub name: String,
    /// The time that the counts below were gathered in.
    pub measured_seconds: f64,
    #[serde(flatten)]
    pub counts: Counts,
    #[serde(flatten)]
    pub latency: Percentiles,
    /// Latencies in microseconds, from the intended time to the answer; see [`super::histogram`] for its form.
    pub latency_histogram_microseconds: LatencyHistogram,
}

impl Operation {
    /// Those done in a second, on average.
    pub fn done_per_second(&self) -> Option<f64> {
        (self.measured_seconds > 0.0).then(|| self.counts.done as f64 / self.measured_seconds)
    }
}

/// How many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Whose time came, sent or not.
    pub intended: u64,
    pub sent: u64,
    /// Answered as they should be.
    pub done: u64,
    /// Not answered as they should be, by kind. Kinds are few and fixed: `status_503`, `timeout`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
}

impl Counts {
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Adds another second's or worker's.
    pub fn add(&mut self, other: &Self) {
        self.intended += other.intended;
        self.sent += other.sent;
        self.done += other.done;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }
}

/// Latencies in seconds; missing: there were none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Percentiles {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p90_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_seconds: Option<f64>,
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
