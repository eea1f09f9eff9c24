//! The one JSON file of a run. Names say the unit; times within a run count from its start.
//!
//! A reader takes what it knows and leaves the rest: members are added without a new [`SCHEMA_VERSION`], which counts
//! only what changes the meaning of a member or removes one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::histogram::LatencyHistogram;

pub use super::counts::{Counts, Percentiles};
pub use super::growth::{Growth, GrowthLine};
pub use super::judged::{Check, Generator, Limit, Measurement, Ratio, Threshold, Unit};
pub use super::series::{GeneratorSecond, OperationSecond, ReplicaSample, Second};

/// Of the form of this file.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything about one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The version of this form.
    pub schema_version: u32,
    /// The scenario's name, or the command's.
    pub name: String,
    /// What it is for, in a sentence.
    pub description: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC.
    pub ended_at: String,
    /// What wrote it.
    pub tool: Build,
    /// Where the generator ran.
    pub machine: Machine,
    /// In the order of [`Second::replicas`].
    pub replicas: Vec<Replica>,
    /// None: it was not asked.
    pub database: Option<Database>,
    /// What was asked for.
    pub settings: Settings,
    /// In their order.
    pub phases: Vec<Phase>,
    /// Each kind of request and delivery.
    pub operations: Vec<Operation>,
    /// What was checked at the end.
    pub checks: Vec<Check>,
    /// The limits that the scenario sets.
    pub thresholds: Vec<Threshold>,
    /// Our numbers beside those of baselines.
    pub ratios: Vec<Ratio>,
    /// How cost grows with size.
    pub growth: Vec<Growth>,
    /// Whether the generator was the limit.
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
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `release` or `debug`; empty: not known.
    pub profile: String,
}

/// Where the generator ran. If the replicas ran elsewhere, `description` should say so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// The name of its processor.
    pub cpu_model: String,
    /// How many processors it has.
    pub cpu_cores: u64,
    /// How much memory it has.
    pub memory_bytes: u64,
    /// The version of its kernel.
    pub kernel: String,
    /// The name of its system.
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
    /// Its version.
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
    /// Its name.
    pub name: String,
    /// Where it begins, from the beginning of the run.
    pub start_seconds: f64,
    /// Where it ends.
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
    /// Its name.
    pub name: String,
    /// The time that the counts below were gathered in.
    pub measured_seconds: f64,
    /// How many there were.
    #[serde(flatten)]
    pub counts: Counts,
    /// How long they took.
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
