//! What a run is judged by: checks, thresholds, ratios to baselines, and whether the generator was the limit.

use serde::{Deserialize, Serialize};

/// A promise that was checked at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was promised.
    pub name: String,
    /// Whether it held.
    pub passed: bool,
    /// What was compared, or what was found.
    pub detail: String,
}

/// What a value is measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// So many in a second.
    PerSecond,
    /// A share: 0.01 is shown as 1 %.
    Share,
    /// A count.
    #[default]
    Number,
}

/// Which values are good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Limit {
    /// Whether a value is good.
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
    /// What it is measured in.
    pub unit: Unit,
    /// What it may be.
    pub limit: Limit,
    /// Null: nothing was measured, which does not pass.
    pub measured: Option<f64>,
    /// Whether it held.
    pub passed: bool,
}

impl Threshold {
    /// Judges what was measured.
    pub fn new(name: impl Into<String>, unit: Unit, limit: Limit, measured: Option<f64>) -> Self {
        let measured = measured.filter(|value| value.is_finite());
        Self { name: name.into(), unit, limit, measured, passed: measured.is_some_and(|value| limit.holds(value)) }
    }
}

/// A value and what it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// What it is.
    pub name: String,
    /// What it is measured in.
    pub unit: Unit,
    /// The value.
    pub value: f64,
}

impl Measurement {
    /// A value and what it is.
    pub fn new(name: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self { name: name.into(), unit, value }
    }
}

/// Our number beside a baseline's of the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// What is compared.
    pub name: String,
    /// Our number.
    pub ours: Measurement,
    /// The baseline's.
    #[serde(alias = "yardstick")]
    pub baseline: Measurement,
    /// Ours divided by the baseline's; null: the baseline's is zero.
    pub ratio: Option<f64>,
    /// What it should be.
    pub goal: Option<Limit>,
    /// Null: there is no goal.
    pub reached: Option<bool>,
    /// How it came about, for people.
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

    /// The same with a note.
    pub fn with_note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
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
