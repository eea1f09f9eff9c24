//! The values by which runs are compared: each as a total, and second by second in the measured phases.

use crate::report::Report;
use crate::report::model::{Operation, OperationSecond, Second, Unit};

use super::noise::{Evidence, windows};

/// A value of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    pub name: String,
    pub unit: Unit,
    pub lower_is_better: bool,
    /// `None` if nothing was measured.
    pub total: Option<f64>,
    /// The basis for judging its noise.
    pub evidence: Evidence,
}

/// Returns all values of a run: those of each operation, then the replicas' resources.
pub fn metrics(report: &Report) -> Vec<Metric> {
    let measured: Vec<&Second> = report.series.iter().filter(|second| report.is_measured(second)).collect();
    let mut metrics = Vec::new();
    for operation in &report.operations {
        metrics.extend(of_operation(operation, &measured));
    }
    let used = cpu_used(report);
    let (requests, cpu) = used.iter().fold((0, 0.0), |(requests, cpu), second| (requests + second.0, cpu + second.1));
    let per_request = used.iter().map(|&(done, cpu)| (done > 0).then(|| cpu / done as f64));
    metrics.push(Metric {
        name: "replicas: processor time per request".to_owned(),
        unit: Unit::Seconds,
        lower_is_better: true,
        total: (requests > 0).then(|| cpu / requests as f64),
        evidence: windows(per_request),
    });
    let memory = || measured.iter().map(|second| most_memory(second));
    metrics.push(Metric {
        name: "replicas: resident memory, the highest of one".to_owned(),
        unit: Unit::Bytes,
        lower_is_better: true,
        total: memory().flatten().reduce(f64::max),
        evidence: windows(memory()),
    });
    metrics
}

fn of_operation(operation: &Operation, measured: &[&Second]) -> Vec<Metric> {
    let each = |value: &dyn Fn(&OperationSecond, f64) -> Option<f64>| {
        let of = |second: &&Second| value(second.operations.get(&operation.name)?, second.length_seconds);
        windows(measured.iter().map(of))
    };
    let metric = |what: &str, unit, lower_is_better, total, evidence| Metric {
        name: format!("{}: {what}", operation.name),
        unit,
        lower_is_better,
        total,
        evidence,
    };
    let (latency, failed) = (&operation.latency, operation.counts.failed());
    let tried = operation.counts.done + failed;
    vec![
        metric("p50", Unit::Seconds, true, latency.p50_seconds, each(&|second, _| second.latency.p50_seconds)),
        metric("p99", Unit::Seconds, true, latency.p99_seconds, each(&|second, _| second.latency.p99_seconds)),
        metric("p99.9", Unit::Seconds, true, latency.p999_seconds, each(&|second, _| second.latency.p999_seconds)),
        metric(
            "done",
            Unit::PerSecond,
            false,
            operation.done_per_second(),
            each(&|second, length| (length > 0.0).then(|| second.counts.done as f64 / length)),
        ),
        metric(
            "failed",
            Unit::Share,
            true,
            (tried > 0).then(|| failed as f64 / tried as f64),
            Evidence::Counts { failed, tried },
        ),
    ]
}

/// Returns requests done and processor time of all replicas together, for the measured seconds in which, and before
/// which, every replica that should answer did.
fn cpu_used(report: &Report) -> Vec<(u64, f64)> {
    let pairs = report.series.windows(2).filter(|pair| report.is_measured(&pair[1]) && !pair[1].replicas.is_empty());
    let used = pairs.filter_map(|pair| {
        let samples = pair[1].replicas.iter().zip(&pair[0].replicas);
        let each = samples.map(|(now, before)| Some(now.as_ref()?.since(before.as_ref()?)?.cpu_seconds));
        let done = pair[1].operations.values().map(|operation| operation.counts.done).sum();
        Some((done, each.sum::<Option<f64>>()?))
    });
    used.collect()
}

fn most_memory(second: &Second) -> Option<f64> {
    second.replicas.iter().flatten().map(|sample| sample.resident_bytes as f64).reduce(f64::max)
}
