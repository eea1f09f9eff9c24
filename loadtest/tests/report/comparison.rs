//! The comparison of two runs.

use mana_load::report::compare::{Comparison, Outcome, page};
use mana_load::report::model::Check;

use crate::fixture::{hostile, usual};

fn outcome(comparison: &Comparison, name: &str) -> Outcome {
    comparison.rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}")).outcome
}

#[test]
fn a_run_against_itself_changed_nothing() {
    let run = usual(120, 1.0);
    let comparison = Comparison::new(&run, &run);
    assert!(comparison.rows.iter().all(|row| row.outcome == Outcome::WithinNoise), "{comparison}");
    assert!(comparison.differences.is_empty() && comparison.warnings.is_empty() && comparison.broken.is_empty());
    assert!(!comparison.is_regression(0.0));
    assert!(comparison.to_string().contains("Nothing changed beyond noise."), "{comparison}");
}

#[test]
fn a_slower_run_is_told_by_what_is_slower_and_nothing_else() {
    let (fast, slow) = (usual(120, 1.0), usual(120, 1.4));
    let worse = Comparison::new(&fast, &slow);
    for name in ["pull: p50", "pull: p99", "push, 10 changes: p50"] {
        assert_eq!(outcome(&worse, name), Outcome::Worse, "{worse}");
    }
    for name in ["pull: done", "pull: failed", "replicas: processor time per request"] {
        assert_eq!(outcome(&worse, name), Outcome::WithinNoise, "{worse}");
    }
    assert!(worse.is_regression(20.0) && !worse.is_regression(60.0));
    let better = Comparison::new(&slow, &fast);
    assert_eq!(outcome(&better, "pull: p50"), Outcome::Better);
    assert!(!better.is_regression(0.0), "{better}");
}

#[test]
fn growth_that_became_steeper_is_worse() {
    let name = "growth: push p50 by stored changes";
    let (flat, steep) = (usual(30, 1.0), usual(30, 1.4));
    assert_eq!(outcome(&Comparison::new(&flat, &steep), name), Outcome::Worse);
    assert_eq!(outcome(&Comparison::new(&steep, &flat), name), Outcome::Better);
    // A report from before there were any.
    let without = mana_load::report::Report { growth: Vec::new(), ..usual(30, 1.0) };
    assert_eq!(outcome(&Comparison::new(&without, &flat), name), Outcome::Missing);
}

#[test]
fn what_was_not_alike_is_said() {
    let (first, mut second) = (usual(120, 1.0), usual(120, 1.0));
    second.machine.cpu_cores = 8;
    second.settings.scenario["phases"][0]["rate_per_second"] = 2_000.into();
    second.generator.was_the_limit = Some(true);
    let text = Comparison::new(&first, &second).to_string();
    assert!(text.contains("machine: cores: 2 in A, 8 in B"), "{text}");
    assert!(text.contains("scenario.phases[0].rate_per_second: 900 in A, 2000 in B"), "{text}");
    assert!(text.contains("In the second run the generator was the limit"), "{text}");
}

#[test]
fn a_check_that_no_longer_holds_is_a_regression_whatever_the_numbers() {
    let (first, mut second) = (usual(120, 1.0), usual(120, 1.0));
    second.checks[0] = Check { passed: false, ..second.checks[0].clone() };
    let comparison = Comparison::new(&first, &second);
    assert_eq!(comparison.broken, ["check: nothing was missed (G2)"]);
    assert!(comparison.is_regression(1_000.0));
    assert!(!Comparison::new(&second, &second).is_regression(0.0), "it did not hold before either");
}

#[test]
fn runs_of_different_operations_and_of_none_can_be_compared() {
    let (usual, hostile) = (usual(120, 1.0), hostile());
    let comparison = Comparison::new(&usual, &hostile);
    assert_eq!(outcome(&comparison, "pull: p50"), Outcome::Missing);
    let text = page(&comparison);
    assert!(!text.contains("<script"));
    assert!(!text.contains("<img"));
    let empty = mana_load::report::Report::default();
    assert!(!Comparison::new(&empty, &empty).is_regression(0.0));
    let short = crate::fixture::usual(3, 1.0);
    let slower = crate::fixture::usual(3, 2.0);
    assert_eq!(outcome(&Comparison::new(&short, &slower), "pull: p50"), Outcome::Unknown);
}
