//! The judgement of a run: checks, thresholds, ratios to baselines, and whether the generator was the bottleneck.

use serde::{Deserialize, Serialize};

/// A promise that was checked at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The promise.
    pub name: String,
    /// True if it held.
    pub passed: bool,
    /// Details: what was compared, or what was found.
    pub detail: String,
}

/// The unit of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A rate per second.
    PerSecond,
    /// A fraction: 0.01 is shown as 1 %.
    Share,
    /// A count.
    #[default]
    Number,
}

/// A bound on good values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Limit {
    /// True if a value is good.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

/// A limit set by the scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// `push p99`
    pub name: String,
    /// The unit of the value.
    pub unit: Unit,
    /// The limit.
    pub limit: Limit,
    /// Null if nothing was measured, which does not pass.
    pub measured: Option<f64>,
    /// True if it held.
    pub passed: bool,
}

impl Threshold {
    /// Judges a measured value.
    pub fn new(name: impl Into<String>, unit: Unit, limit: Limit, measured: Option<f64>) -> Self {
        let measured = measured.filter(|value| value.is_finite());
        Self { name: name.into(), unit, limit, measured, passed: measured.is_some_and(|value| limit.holds(value)) }
    }
}

/// A named value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The name.
    pub name: String,
    /// The unit.
    pub unit: Unit,
    /// The value.
    pub value: f64,
}

impl Measurement {
    /// Creates a named value.
    pub fn new(name: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self { name: name.into(), unit, value }
    }
}

/// Our number and a baseline's of the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The subject of the comparison.
    pub name: String,
    /// Our number.
    pub ours: Measurement,
    /// The baseline's number.
    #[serde(alias = "yardstick")]
    pub baseline: Measurement,
    /// Ours divided by the baseline's; null if the baseline's is zero.
    pub ratio: Option<f64>,
    /// The goal for it.
    pub goal: Option<Limit>,
    /// Null if there is no goal.
    pub reached: Option<bool>,
    /// A description of the measurement, for people.
    #[serde(default)]
    pub note: String,
}

impl Ratio {
    /// Divides our number by the baseline.
    pub fn new(name: impl Into<String>, ours: Measurement, baseline: Measurement, goal: Option<Limit>) -> Self {
        let ratio = Some(ours.value / baseline.value).filter(|ratio| ratio.is_finite());
        let reached = goal.map(|goal| ratio.is_some_and(|ratio| goal.holds(ratio)));
        Self { name: name.into(), ours, baseline, ratio, goal, reached, note: String::new() }
    }

    /// Adds a note.
    pub fn with_note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }
}

/// The generator in the measured phases, and whether the numbers are its own rather than the cluster's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Generator {
    /// The number of threads that it could keep busy.
    pub threads: u64,
    /// Processor time over all measured seconds.
    pub cpu_seconds: f64,
    /// Processor time as a fraction of what `threads` could use; nine of ten seconds did not exceed it.
    pub cpu_p90_share: f64,
    /// The same for the load of all processors of its machine.
    pub machine_busy_p90_share: Option<f64>,
    /// The delay between intended and sent, over all requests.
    pub lateness_p99_seconds: Option<f64>,
    /// Null if not known.
    pub was_the_limit: Option<bool>,
    /// Why, or what speaks against it; and other caveats about the numbers.
    pub reason: String,
}
