//! Merges the reports of several generators that ran the same scenario at the same time.

use std::collections::BTreeMap;

use chrono::DateTime;

use super::model::{Check, Generator, Operation, OperationSecond, Percentiles, Report, Second, Threshold};

/// The reasons why reports are not from one run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// There is nothing to merge.
    #[error("there is nothing to merge")]
    Nothing,
    /// The reports are of different scenarios.
    #[error("one report is of {first}, another of {second}: only generators of one scenario can be merged")]
    Scenarios {
        /// The scenario of one.
        first: String,
        /// That of another.
        second: String,
    },
    /// Reports of baselines are not merged.
    #[error("{name} compares with baselines, which only one generator measures")]
    Baselines {
        /// Its name.
        name: String,
    },
    /// One generator began when another had ended.
    #[error(
        "one report begins at {began}, when the one of {first} had ended: only generators that ran at the same time can be merged"
    )]
    Apart {
        /// When the first one began.
        first: String,
        /// When the other one began.
        began: String,
    },
    /// A report is given twice, by itself or as a part of a merged one.
    #[error("{generator} is given twice, by itself or as a part of a merged report")]
    Twice {
        /// The generator's run, as [`Report::generators`] names it.
        generator: String,
    },
    /// The time of a report cannot be read.
    #[error("{started_at:?} is not a time")]
    Time {
        /// The time as given.
        started_at: String,
    },
}

/// Merges reports. Counts and histograms are added, so percentiles of the whole run are exact. Single seconds have only
/// percentiles: the worst generator's are used, which are never better than the truth. Checks, thresholds and the
/// generators' own values are kept for each generator.
pub fn merge(reports: &[Report]) -> Result<Report, MergeError> {
    let first = reports.iter().min_by_key(|report| &report.started_at).ok_or(MergeError::Nothing)?;
    let mut merged = Report { series: Vec::new(), operations: Vec::new(), checks: Vec::new(), ..first.clone() };
    merged.thresholds.clear();
    merged.merged_from.clear();
    let mut seconds = BTreeMap::new();
    for (report, number) in reports.iter().zip(1..) {
        if report.name != first.name {
            let (first, second) = (first.name.clone(), report.name.clone());
            return Err(MergeError::Scenarios { first, second });
        }
        if !report.ratios.is_empty() || !report.growth.is_empty() {
            return Err(MergeError::Baselines { name: report.name.clone() });
        }
        let later = (started(report)? - started(first)?) / 1e3;
        if later > first.phases.iter().map(|phase| phase.end_seconds).fold(0.0, f64::max) {
            return Err(MergeError::Apart { first: first.started_at.clone(), began: report.started_at.clone() });
        }
        let generators = report.generators();
        if let Some(generator) = generators.iter().find(|one| merged.merged_from.contains(one)) {
            return Err(MergeError::Twice { generator: generator.clone() });
        }
        merged.merged_from.extend(generators);
        for operation in &report.operations {
            add_operation(&mut merged.operations, operation);
        }
        for second in &report.series {
            add_second(&mut seconds, second, later);
        }
        let named = |name: &str| format!("{name} (generator {number})");
        merged.checks.extend(report.checks.iter().map(|check| Check { name: named(&check.name), ..check.clone() }));
        let thresholds = report.thresholds.iter();
        merged.thresholds.extend(thresholds.map(|one| Threshold { name: named(&one.name), ..one.clone() }));
        merged.ended_at = merged.ended_at.max(report.ended_at.clone());
        for (phase, other) in merged.phases.iter_mut().zip(&report.phases) {
            phase.end_seconds = phase.end_seconds.max(other.end_seconds + later);
        }
    }
    merged.series = seconds.into_values().collect();
    merged.generator = generator(reports);
    Ok(merged)
}

/// Returns the start time in milliseconds.
fn started(report: &Report) -> Result<f64, MergeError> {
    let parsed = DateTime::parse_from_rfc3339(&report.started_at);
    let time = parsed.map_err(|_| MergeError::Time { started_at: report.started_at.clone() })?;
    Ok(time.timestamp_millis() as f64)
}

fn add_operation(operations: &mut Vec<Operation>, operation: &Operation) {
    let Some(sum) = operations.iter_mut().find(|known| known.name == operation.name) else {
        operations.push(operation.clone());
        return;
    };
    sum.measured_seconds = sum.measured_seconds.max(operation.measured_seconds);
    sum.counts.add(&operation.counts);
    sum.latency_histogram_microseconds.merge(&operation.latency_histogram_microseconds);
    sum.latency = Percentiles::from(&sum.latency_histogram_microseconds);
}

fn add_second(seconds: &mut BTreeMap<i64, Second>, second: &Second, later: f64) {
    let at = second.at_seconds + later;
    // A broken file may contain any number here; the cast saturates.
    let sum = seconds.entry(at.round() as i64).or_insert_with(|| Second { at_seconds: at, ..Second::default() });
    sum.length_seconds = sum.length_seconds.max(second.length_seconds);
    sum.connections += second.connections;
    for (name, operation) in &second.operations {
        let known = sum.operations.entry(name.clone()).or_default();
        known.counts.add(&operation.counts);
        worsen(known, operation);
    }
    let (ours, theirs) = (&mut sum.generator, &second.generator);
    ours.cpu_seconds += theirs.cpu_seconds;
    ours.machine_busy_share = greater(ours.machine_busy_share, theirs.machine_busy_share);
    ours.lateness_p99_seconds = greater(ours.lateness_p99_seconds, theirs.lateness_p99_seconds);
    ours.lateness_max_seconds = greater(ours.lateness_max_seconds, theirs.lateness_max_seconds);
    if sum.replicas.is_empty() {
        sum.replicas.clone_from(&second.replicas);
    }
}

fn worsen(known: &mut OperationSecond, other: &OperationSecond) {
    let (ours, theirs) = (&mut known.latency, &other.latency);
    ours.mean_seconds = greater(ours.mean_seconds, theirs.mean_seconds);
    ours.p50_seconds = greater(ours.p50_seconds, theirs.p50_seconds);
    ours.p90_seconds = greater(ours.p90_seconds, theirs.p90_seconds);
    ours.p99_seconds = greater(ours.p99_seconds, theirs.p99_seconds);
    ours.p999_seconds = greater(ours.p999_seconds, theirs.p999_seconds);
    ours.max_seconds = greater(ours.max_seconds, theirs.max_seconds);
}

fn greater(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

/// If any of them was the bottleneck, the numbers of all are spoiled.
fn generator(reports: &[Report]) -> Generator {
    let all = || reports.iter().map(|report| &report.generator);
    let known = all().all(|one| one.was_the_limit.is_some());
    let any = all().any(|one| one.was_the_limit == Some(true));
    let reasons = all().zip(1..).map(|(one, number)| format!("generator {number}: {}", one.reason));
    Generator {
        threads: all().map(|one| one.threads).sum(),
        cpu_seconds: all().map(|one| one.cpu_seconds).sum(),
        cpu_p90_share: all().map(|one| one.cpu_p90_share).fold(0.0, f64::max),
        machine_busy_p90_share: all().fold(None, |most, one| greater(most, one.machine_busy_p90_share)),
        lateness_p99_seconds: all().fold(None, |most, one| greater(most, one.lateness_p99_seconds)),
        was_the_limit: (known || any).then_some(any),
        reason: reasons.collect::<Vec<_>>().join("; "),
    }
}
