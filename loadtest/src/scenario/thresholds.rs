//! Compares the limits of a scenario with what a run measured.

use super::file::{LimitPlan, ThresholdPlan};
use crate::report::Report;
use crate::report::model::{Limit, Operation, Threshold, Unit};

/// Judges every limit. A value that was not measured does not pass.
pub fn judge(plans: &[ThresholdPlan], report: &Report) -> Vec<Threshold> {
    plans.iter().map(|plan| one(plan, report.operation(&plan.operation))).collect()
}

fn one(plan: &ThresholdPlan, operation: Option<&Operation>) -> Threshold {
    let latency = operation.map(|operation| &operation.latency);
    let (what, unit, limit, measured) = match plan.limit {
        LimitPlan::P50Ms(ms) => ("p50", Unit::Seconds, at_most(ms / 1e3), latency.and_then(|it| it.p50_seconds)),
        LimitPlan::P99Ms(ms) => ("p99", Unit::Seconds, at_most(ms / 1e3), latency.and_then(|it| it.p99_seconds)),
        LimitPlan::MaxMs(ms) => ("slowest", Unit::Seconds, at_most(ms / 1e3), latency.and_then(|it| it.max_seconds)),
        LimitPlan::ErrorShare(share) => ("errors", Unit::Share, at_most(share), operation.and_then(error_share)),
        LimitPlan::PerSecond(rate) => {
            ("rate", Unit::PerSecond, Limit::AtLeast(rate), operation.and_then(Operation::done_per_second))
        }
    };
    Threshold::new(format!("{} {what}", plan.operation), unit, limit, measured)
}

fn at_most(value: f64) -> Limit {
    Limit::AtMost(value)
}

/// Failed attempts as a fraction of all attempts.
fn error_share(operation: &Operation) -> Option<f64> {
    let failed = operation.counts.failed();
    let all = failed + operation.counts.done;
    (all > 0).then(|| failed as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::{Counts, Percentiles};

    #[test]
    fn a_limit_that_is_missed_fails_and_so_does_nothing_measured() {
        let operation = Operation {
            name: "pull".to_owned(),
            measured_seconds: 10.0,
            counts: Counts { done: 90, errors: [("timeout".to_owned(), 10)].into(), ..Counts::default() },
            latency: Percentiles { p99_seconds: Some(0.02), ..Percentiles::default() },
            ..Operation::default()
        };
        let report = Report { operations: vec![operation], ..Report::default() };
        let passes = |operation: &str, limit| {
            judge(&[ThresholdPlan { operation: operation.to_owned(), limit }], &report)[0].passed
        };
        assert!(passes("pull", LimitPlan::P99Ms(20.0)) && !passes("pull", LimitPlan::P99Ms(19.0)));
        assert!(passes("pull", LimitPlan::ErrorShare(0.1)) && !passes("pull", LimitPlan::ErrorShare(0.09)));
        assert!(passes("pull", LimitPlan::PerSecond(9.0)) && !passes("pull", LimitPlan::PerSecond(10.0)));
        assert!(!passes("push 1", LimitPlan::P99Ms(1e9)) && !passes("pull", LimitPlan::P50Ms(1e9)));
    }
}
