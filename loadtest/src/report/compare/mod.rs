//! Compares two runs: what changed beyond noise, and what else was different.

mod metrics;
mod noise;
mod page;
mod show;
mod surroundings;

use std::collections::BTreeMap;

use super::Report;
use super::model::{Limit, Unit};
use metrics::{Metric, metrics};
use noise::{Certainty, judge};
use surroundings::{Difference, differences};

pub use page::page;

/// Ratios to baselines are single values without a timeline, so their noise is not known: only changes of at least this
/// fraction are reported.
const RATIO_CHANGE: f64 = 0.10;

/// The same for growth, whose two sides are less alike than those of a ratio, and include the slowest of a hundred.
const GROWTH_CHANGE: f64 = 0.25;

/// The second run compared with the first.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The names and start times of the runs.
    pub runs: [String; 2],
    /// Every value that either run has.
    pub rows: Vec<Row>,
    /// Reasons to doubt one of the runs.
    pub warnings: Vec<String>,
    /// Other differences between the runs.
    pub differences: Vec<Difference>,
    /// Checks and thresholds that held in the first run but not in the second.
    pub broken: Vec<String>,
}

/// A value in both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The name of the value.
    pub name: String,
    /// Its unit.
    pub unit: Unit,
    /// `None` if it was not measured in this run.
    pub first: Option<f64>,
    /// `None` if it was not measured in this run.
    pub second: Option<f64>,
    /// The increase from first to second, as a fraction of the first; none if one is missing or the first is zero.
    pub change: Option<f64>,
    /// The meaning of the change.
    pub outcome: Outcome,
}

/// The meaning of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is better.
    Better,
    /// It is worse.
    Worse,
    /// It may be noise.
    WithinNoise,
    /// It changed, but there is too little data to tell whether that is noise.
    Unknown,
    /// One of the runs did not measure it.
    Missing,
}

impl Comparison {
    /// Compares two runs.
    pub fn new(first: &Report, second: &Report) -> Self {
        let by_name = |report: &Report| -> BTreeMap<String, Metric> {
            metrics(report).into_iter().map(|metric| (metric.name.clone(), metric)).collect()
        };
        let (of_first, of_second) = (by_name(first), by_name(second));
        let order =
            metrics(first).into_iter().chain(metrics(second).into_iter().filter(|m| !of_first.contains_key(&m.name)));
        let mut rows: Vec<Row> =
            order.map(|metric| row(&metric, of_first.get(&metric.name), of_second.get(&metric.name))).collect();
        rows.extend(single_rows(&singles(first), &singles(second)));
        Self {
            runs: [first, second].map(|report| format!("{} of {}", report.name, report.started_at)),
            rows,
            warnings: [("first", first), ("second", second)].into_iter().filter_map(doubt).collect(),
            differences: differences(first, second),
            broken: broken(first, second),
        }
    }

    /// Returns values that got worse beyond noise by more than this many percent.
    pub fn regressions(&self, percent: f64) -> Vec<&Row> {
        let beyond = |row: &&Row| {
            row.outcome == Outcome::Worse && row.change.is_none_or(|change| change.abs() * 100.0 > percent)
        };
        self.rows.iter().filter(beyond).collect()
    }

    /// True if any value of the second run is worse by more than this many percent, or a check or threshold of the
    /// first no longer holds.
    pub fn is_regression(&self, percent: f64) -> bool {
        !self.broken.is_empty() || !self.regressions(percent).is_empty()
    }
}

fn row(like: &Metric, first: Option<&Metric>, second: Option<&Metric>) -> Row {
    let both = first.zip(second).and_then(|(a, b)| Some(((a.total?, b.total?), (&a.evidence, &b.evidence))));
    let outcome = both.map_or(Outcome::Missing, |(totals, evidence)| match judge(totals, evidence) {
        Certainty::WithinNoise => Outcome::WithinNoise,
        Certainty::Unknown => Outcome::Unknown,
        Certainty::BeyondNoise if (totals.1 < totals.0) == like.lower_is_better => Outcome::Better,
        Certainty::BeyondNoise => Outcome::Worse,
    });
    let totals = (first.and_then(|metric| metric.total), second.and_then(|metric| metric.total));
    Row {
        name: like.name.clone(),
        unit: like.unit,
        first: totals.0,
        second: totals.1,
        change: change(totals.0, totals.1),
        outcome,
    }
}

/// A value without a timeline.
struct Single {
    name: String,
    value: Option<f64>,
    goal: Option<Limit>,
    /// The smallest change that is reported.
    least: f64,
}

/// Returns ratios to baselines, and the growth from the first to the last size.
fn singles(report: &Report) -> Vec<Single> {
    let ratios = report.ratios.iter().map(|ratio| {
        let name = format!("ratio: {}", ratio.name);
        Single { name, value: ratio.ratio, goal: ratio.goal, least: RATIO_CHANGE }
    });
    let lines = report.growth.iter().flat_map(|growth| growth.lines.iter().map(move |line| (growth, line)));
    let growths = lines.map(|(growth, line)| {
        let name = format!("growth: {} by {}", line.name, growth.size);
        Single { name, value: line.factor, goal: line.limit, least: GROWTH_CHANGE }
    });
    ratios.chain(growths).collect()
}

fn single_rows(first: &[Single], second: &[Single]) -> Vec<Row> {
    let find = |of: &[Single], name: &str| of.iter().find(|single| single.name == name).and_then(|single| single.value);
    let only_second = second.iter().filter(|single| first.iter().all(|other| other.name != single.name));
    let rows = first.iter().chain(only_second).map(|Single { name, goal, least, .. }| {
        let (a, b) = (find(first, name), find(second, name));
        let change = change(a, b);
        let lower_is_better = matches!(goal, Some(Limit::AtMost(_)));
        let outcome = match change {
            None => Outcome::Missing,
            Some(change) if change.abs() < *least => Outcome::WithinNoise,
            Some(_) if goal.is_none() => Outcome::Unknown,
            Some(change) if (change < 0.0) == lower_is_better => Outcome::Better,
            Some(_) => Outcome::Worse,
        };
        Row { name: name.clone(), unit: Unit::Number, first: a, second: b, change, outcome }
    });
    rows.collect()
}

fn change(first: Option<f64>, second: Option<f64>) -> Option<f64> {
    let (first, second) = (first?, second?);
    if first == second { Some(0.0) } else { Some((second - first) / first).filter(|change| change.is_finite()) }
}

fn doubt((which, report): (&str, &Report)) -> Option<String> {
    let limit = report.generator.was_the_limit == Some(true);
    limit.then(|| format!("In the {which} run the generator was the limit: {}.", report.generator.reason))
}

fn broken(first: &Report, second: &Report) -> Vec<String> {
    let held = |report: &Report| -> BTreeMap<String, bool> {
        let checks = report.checks.iter().map(|check| (format!("check: {}", check.name), check.passed));
        let limits = report.thresholds.iter().map(|limit| (format!("threshold: {}", limit.name), limit.passed));
        checks.chain(limits).collect()
    };
    let before = held(first);
    let now = held(second).into_iter().filter(|(name, passed)| !passed && before.get(name) != Some(&false));
    now.map(|(name, _)| name).collect()
}
