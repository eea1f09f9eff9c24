//! The one JSON file of a run. Names say the unit; times within a run count from its start.
//!
//! A reader takes what it knows and leaves the rest: members are added without a new [`SCHEMA_VERSION`], which counts
//! only what changes the meaning of a member or removes one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::histogram::LatencyHistogram;

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
    pub generator: Generator,
    /// The course of it, second by second.
    pub series: Vec<Second>,
}

impl Report {
    /// Whether every check and every threshold passed. Goals of ratios are told, and fail nothing.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed) && self.thresholds.iter().all(|threshold| threshold.passed)
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

/// A stretch of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    pub name: String,
    pub start_seconds: f64,
    pub end_seconds: f64,
    /// Whether it counts for the totals; a warm-up does not.
    pub measured: bool,
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

/// One second of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Second {
    /// When it ended.
    pub at_seconds: f64,
    /// How long it really was; rates divide by it.
    pub length_seconds: f64,
    /// By the operation's name.
    pub operations: BTreeMap<String, OperationSecond>,
    /// WebSockets and streams that the generator held.
    pub connections: u64,
    pub generator: GeneratorSecond,
    /// Each replica's, in the order of [`Report::replicas`]; null: it did not answer.
    pub replicas: Vec<Option<ReplicaSample>>,
}

/// What one operation did in that second. Latencies belong to the second of the answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperationSecond {
    #[serde(flatten)]
    pub counts: Counts,
    #[serde(flatten)]
    pub latency: Percentiles,
}

/// What the generator itself was doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GeneratorSecond {
    /// Its processor time in this second.
    pub cpu_seconds: f64,
    /// The busy share, 0 to 1, of all processors of its machine, everything that runs there included.
    pub machine_busy_share: Option<f64>,
    /// Between the intended time of a request and its being sent.
    pub lateness_p99_seconds: Option<f64>,
    pub lateness_max_seconds: Option<f64>,
}

/// A replica's `/metrics` at that moment. Counters count from the start of its process: one that is lower than in the
/// second before says that it was restarted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaSample {
    /// `process_cpu_seconds_total`.
    pub cpu_seconds: f64,
    /// `process_resident_memory_bytes`.
    pub resident_bytes: u64,
    /// `mana_sync_pushes_total`, all outcomes.
    pub pushes: u64,
    /// `mana_sync_changes_stored_total`.
    pub changes_stored: u64,
    /// `mana_sync_connections_total`: open WebSockets and streams.
    pub connections: u64,
    /// `process_start_time_seconds`.
    pub process_start_seconds: f64,
}

impl ReplicaSample {
    /// What was added since a sample before, its gauges as they are now; none: the process is another one.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let same = (self.process_start_seconds - before.process_start_seconds).abs() < 0.5;
        same.then(|| Self {
            cpu_seconds: (self.cpu_seconds - before.cpu_seconds).max(0.0),
            pushes: self.pushes.saturating_sub(before.pushes),
            changes_stored: self.changes_stored.saturating_sub(before.changes_stored),
            ..self.clone()
        })
    }
}

/// A promise that was checked at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub passed: bool,
    /// What was compared, or what was found.
    pub detail: String,
}

/// What a value is measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Seconds,
    Bytes,
    PerSecond,
    /// A share: 0.01 is shown as 1 %.
    Share,
    #[default]
    Number,
}

/// Which values are good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

/// A limit that the scenario sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// `push p99`
    pub name: String,
    pub unit: Unit,
    pub limit: Limit,
    /// Null: nothing was measured, which does not pass.
    pub measured: Option<f64>,
    pub passed: bool,
}

impl Threshold {
    pub fn new(name: impl Into<String>, unit: Unit, limit: Limit, measured: Option<f64>) -> Self {
        let measured = measured.filter(|value| value.is_finite());
        Self { name: name.into(), unit, limit, measured, passed: measured.is_some_and(|value| limit.holds(value)) }
    }
}

/// A value and what it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    pub name: String,
    pub unit: Unit,
    pub value: f64,
}

impl Measurement {
    pub fn new(name: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self { name: name.into(), unit, value }
    }
}

/// Our number beside a yardstick's of the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    pub name: String,
    pub ours: Measurement,
    pub yardstick: Measurement,
    /// Ours divided by the yardstick's; null: the yardstick's is zero.
    pub ratio: Option<f64>,
    pub goal: Option<Limit>,
    /// Null: there is no goal.
    pub reached: Option<bool>,
}

impl Ratio {
    pub fn new(name: impl Into<String>, ours: Measurement, yardstick: Measurement, goal: Option<Limit>) -> Self {
        let ratio = Some(ours.value / yardstick.value).filter(|ratio| ratio.is_finite());
        let reached = goal.map(|goal| ratio.is_some_and(|ratio| goal.holds(ratio)));
        Self { name: name.into(), ours, yardstick, ratio, goal, reached }
    }
}

/// The generator over the measured phases, and whether the numbers are its own rather than the cluster's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Generator {
    /// Threads that it could keep busy.
    pub threads: u64,
    /// Processor time over all measured seconds.
    pub cpu_seconds: f64,
    /// Processor time as a share of what `threads` could use, in the second that nine of ten seconds did not exceed.
    pub cpu_p90_share: f64,
    /// The same of the busy share of all processors of its machine.
    pub machine_busy_p90_share: Option<f64>,
    /// Between intended and sent, over all requests.
    pub lateness_p99_seconds: Option<f64>,
    /// Null: not known.
    pub was_the_limit: Option<bool>,
    /// Why, or what speaks against it; and what else to know before believing the numbers.
    pub reason: String,
}
