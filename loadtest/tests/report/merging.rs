//! Merging the reports of several generators.

use mana_load::report::merge::{MergeError, merge};

use crate::fixture::usual;

#[test]
fn counts_and_histograms_are_added_and_seconds_meet_by_the_clock() {
    let first = usual(60, 1.0);
    let mut second = usual(60, 2.0);
    second.started_at = "2026-01-02T03:04:15.000Z".to_owned();
    second.generator.was_the_limit = Some(true);
    let [first, second] = [first, second].map(|mut report| {
        report.ratios.clear();
        report.growth.clear();
        report
    });
    let merged = merge(&[second.clone(), first.clone()]).unwrap();
    assert_eq!(merged.started_at, first.started_at);
    for ((sum, one), other) in merged.operations.iter().zip(&first.operations).zip(&second.operations) {
        assert_eq!(sum.counts.done, one.counts.done + other.counts.done);
        let counts = [sum, one, other].map(|operation| operation.latency_histogram_microseconds.count());
        assert_eq!(counts[0], counts[1] + counts[2]);
        assert!(sum.latency.p99_seconds >= one.latency.p99_seconds);
        assert!(sum.latency.p99_seconds <= other.latency.p99_seconds);
    }
    // Started ten seconds later: the first ten seconds are the first's only, then both run.
    assert_eq!(merged.series.len(), 70);
    assert_eq!(merged.series[9].connections, first.series[9].connections);
    assert_eq!(merged.series[10].connections, first.series[10].connections + second.series[0].connections);
    assert_eq!(merged.checks.len(), first.checks.len() + second.checks.len());
    assert_eq!(merged.generator.was_the_limit, Some(true));
}

#[test]
fn what_is_not_of_one_run_is_refused() {
    let plain = |name: &str| mana_load::report::Report {
        name: name.to_owned(),
        ratios: Vec::new(),
        growth: Vec::new(),
        ..usual(3, 1.0)
    };
    assert_eq!(merge(&[]).unwrap_err(), MergeError::Nothing);
    assert!(matches!(merge(&[plain("push"), plain("pull")]), Err(MergeError::Scenarios { .. })));
    assert!(matches!(merge(&[plain("push"), usual(3, 1.0)]), Err(MergeError::Scenarios { .. })));
    assert!(matches!(merge(&[usual(3, 1.0)]), Err(MergeError::Baselines { .. })));
    let mut next_day = plain("push");
    next_day.started_at = "2026-01-03T03:04:05.000Z".to_owned();
    assert!(matches!(merge(&[plain("push"), next_day]), Err(MergeError::Apart { .. })));
    assert!(matches!(merge(&[plain("push"), plain("push")]), Err(MergeError::Twice { .. })));
    let mut timeless = plain("push");
    timeless.started_at = "yesterday".to_owned();
    assert!(matches!(merge(&[timeless]), Err(MergeError::Time { .. })));
}

#[test]
fn a_merged_report_is_merged_with_others_but_not_with_one_of_its_parts() {
    let run = |second: u32| mana_load::report::Report {
        started_at: format!("2026-01-02T03:04:{second:02}.000Z"),
        ratios: Vec::new(),
        growth: Vec::new(),
        ..usual(60, 1.0)
    };
    let done = |report: &mana_load::report::Report| report.operations.iter().map(|one| one.counts.done).sum::<u64>();
    let some = merge(&[run(1), run(2)]).unwrap();
    for part in [run(1), run(2), merge(&[run(2), run(3)]).unwrap(), some.clone()] {
        assert!(matches!(merge(&[some.clone(), part.clone()]), Err(MergeError::Twice { .. })));
        assert!(matches!(merge(&[part, some.clone()]), Err(MergeError::Twice { .. })));
    }
    let all = merge(&[run(3), some.clone()]).unwrap();
    assert_eq!((all.merged_from.len(), done(&all)), (3, 3 * done(&run(1))));
    assert!(matches!(merge(&[all, run(1)]), Err(MergeError::Twice { .. })));
}
