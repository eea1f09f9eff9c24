//! The JSON file of a run. Names contain the unit; times within a run count from its start.
//!
//! Readers ignore unknown members: members are added without a new [`SCHEMA_VERSION`], which only changes when a member
//! changes its meaning or is removed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::histogram::LatencyHistogram;

pub use super::counts::{Counts, Percentiles};
pub use super::growth::{Growth, GrowthLine};
pub use super::judged::{Check, Generator, Limit, Measurement, Ratio, Threshold, Unit};
pub use super::series::{GeneratorSecond, OperationSecond, ReplicaSample, Second};

/// The version of this file's form.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything about one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The version of this form.
    pub schema_version: u32,
    /// The scenario's name, or the command's.
    pub name: String,
    /// Its purpose, in a sentence.
    pub description: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC.
    pub ended_at: String,
    /// The program that wrote it.
    pub tool: Build,
    /// The machine of the generator.
    pub machine: Machine,
    /// In the order of [`Second::replicas`].
    pub replicas: Vec<Replica>,
    /// `None` if it was not queried.
    pub database: Option<Database>,
    /// The requested settings.
    pub settings: Settings,
    /// The phases, in order.
    pub phases: Vec<Phase>,
    /// Each kind of request and delivery.
    pub operations: Vec<Operation>,
    /// The checks at the end.
    pub checks: Vec<Check>,
    /// The limits set by the scenario.
    pub thresholds: Vec<Threshold>,
    /// Our numbers and those of baselines.
    pub ratios: Vec<Ratio>,
    /// The growth of cost with size.
    pub growth: Vec<Growth>,
    /// The judgement of the generator: was it the bottleneck?
    pub generator: Generator,
    /// The timeline, second by second.
    pub series: Vec<Second>,
    /// The generators' runs that were merged into this report, as [`Report::generators`] names them; empty if it is of
    /// one generator.
    pub merged_from: Vec<String>,
}

impl Report {
    /// True if every check and every threshold passed. Goals of ratios and limits on growth are reported, but do not
    /// fail it.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed) && self.thresholds.iter().all(|threshold| threshold.passed)
    }

    /// True if a second ended within a measured phase.
    pub fn is_measured(&self, second: &Second) -> bool {
        Phase::any_measured(&self.phases, second)
    }

    /// Names the runs of generators in this report, each differently from all others: its own, or those that were merged.
    pub fn generators(&self) -> Vec<String> {
        if !self.merged_from.is_empty() {
            return self.merged_from.clone();
        }
        let done: u64 = self.operations.iter().map(|operation| operation.counts.done).sum();
        let cpu = self.generator.cpu_seconds;
        vec![format!("{} to {}: {done} done with {cpu} s of CPU", self.started_at, self.ended_at)]
    }

    /// Returns the operation with this name.
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
    /// `release` or `debug`; empty if not known.
    pub profile: String,
}

/// The machine of the generator. If the replicas ran elsewhere, `description` should say so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// The model of its processor.
    pub cpu_model: String,
    /// The number of processors.
    pub cpu_cores: u64,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// The kernel version.
    pub kernel: String,
    /// The name of its operating system.
    pub os: String,
}

/// A replica whose `/metrics` was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replica {
    /// Short, for a legend.
    pub name: String,
    /// Its base URL.
    pub url: String,
    /// From `mana_sync_build_info`, as last seen; empty if it never answered.
    pub version: String,
}

/// The PostgreSQL behind the replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Database {
    /// Its version.
    pub version: String,
    /// Names and values as PostgreSQL shows them.
    pub settings: BTreeMap<String, String>,
}

/// The settings of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Base URLs of the targets.
    pub targets: Vec<String>,
    /// The scenario as it was run, including overrides from the command line.
    pub scenario: serde_json::Value,
}

/// A phase of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Its start, from the start of the run.
    pub start_seconds: f64,
    /// Its end.
    pub end_seconds: f64,
    /// True if it counts for the totals; a warm-up does not.
    pub measured: bool,
}

impl Phase {
    /// True if the second ended within a measured one of these phases.
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
    /// The time in which the counts below were gathered.
    pub measured_seconds: f64,
    /// The number of operations.
    #[serde(flatten)]
    pub counts: Counts,
    /// Their latencies.
    #[serde(flatten)]
    pub latency: Percentiles,
    /// Latencies in microseconds, from the intended time to the answer; see [`super::histogram`] for the form.
    pub latency_histogram_microseconds: LatencyHistogram,
}

impl Operation {
    /// The average rate of those done, per second.
    pub fn done_per_second(&self) -> Option<f64> {
        (self.measured_seconds > 0.0).then(|| self.counts.done as f64 / self.measured_seconds)
    }
}
