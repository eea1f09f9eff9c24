//! The JUnit report for CI systems.

use mana_load::report::Report;
use mana_load::report::junit::junit;
use mana_load::report::model::{Check, Limit, Threshold, Unit};

#[test]
fn what_failed_is_a_failure_with_its_reason_and_text_stays_text() {
    let check = |name: &str, passed| Check { name: name.to_owned(), passed, detail: "2 of 3 <rows>\u{1}".to_owned() };
    let threshold = |name, measured| Threshold::new(name, Unit::Seconds, Limit::AtMost(0.01), measured);
    let report = Report {
        name: "push \"and\" pull".to_owned(),
        started_at: "2026-01-02T03:04:05.000Z".to_owned(),
        checks: vec![check("stored once", true), check("everybody was woken", false)],
        thresholds: vec![
            threshold("push p99", Some(0.005)),
            threshold("pull p99", Some(0.02)),
            threshold("none", None),
        ],
        ..Report::default()
    };
    let text = junit(&report);
    for part in [
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites tests=\"5\" failures=\"3\">",
        "<testsuite name=\"push &quot;and&quot; pull\" tests=\"5\" failures=\"3\"",
        "<testcase classname=\"push &quot;and&quot; pull.checks\" name=\"stored once\"></testcase>",
        "name=\"everybody was woken\"><failure message=\"2 of 3 &lt;rows&gt;\"></failure>",
        "name=\"push p99\"></testcase>",
        "name=\"pull p99\"><failure message=\"20 ms, and at most 10 ms is wanted\"></failure>",
        "name=\"none\"><failure message=\"–, and at most 10 ms is wanted\"></failure>",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}
