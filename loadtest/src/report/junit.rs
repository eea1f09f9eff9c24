//! Writes checks and thresholds of a run as JUnit XML, which CI systems show. Informative values (ratios, growth) are
//! left out.

use maud::{PreEscaped, html};

use super::model::{Check, Report, Threshold};
use super::units::{show_limit, show_or_none};

/// A check or threshold as a test case: its name, and why it failed.
struct Case<'a> {
    kind: &'static str,
    name: &'a str,
    failure: Option<String>,
}

impl<'a> From<&'a Check> for Case<'a> {
    fn from(check: &'a Check) -> Self {
        Self { kind: "checks", name: &check.name, failure: (!check.passed).then(|| check.detail.clone()) }
    }
}

impl<'a> From<&'a Threshold> for Case<'a> {
    fn from(threshold: &'a Threshold) -> Self {
        let Threshold { name, unit, limit, measured, passed } = threshold;
        let text = || format!("{}, and {} is wanted", show_or_none(*unit, *measured), show_limit(*unit, *limit));
        Self { kind: "thresholds", name, failure: (!passed).then(text) }
    }
}

/// Writes one suite with a case for each check and each threshold.
pub fn junit(report: &Report) -> String {
    let checks = report.checks.iter().map(Case::from);
    let cases: Vec<Case<'_>> = checks.chain(report.thresholds.iter().map(Case::from)).collect();
    let failures = cases.iter().filter(|case| case.failure.is_some()).count();
    let seconds = report.phases.iter().map(|phase| phase.end_seconds).fold(0.0, f64::max);
    let name = plain(&report.name);
    let document = html! {
        (PreEscaped("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"))
        testsuites tests=(cases.len()) failures=(failures) {
            testsuite name=(name) tests=(cases.len()) failures=(failures) errors="0" timestamp=(report.started_at) time=(seconds) {
                @for case in &cases {
                    testcase classname={ (name) "." (case.kind) } name=(plain(case.name)) {
                        @if let Some(failure) = &case.failure { failure message=(plain(failure)) {} }
                    }
                }
            }
        }
    };
    document.into_string()
}

/// Removes the characters that XML may not contain, even escaped.
fn plain(text: &str) -> String {
    let is_legal = |c: &char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    text.chars().filter(|c| is_legal(c) && !matches!(c, '\u{fffe}' | '\u{ffff}')).collect()
}
