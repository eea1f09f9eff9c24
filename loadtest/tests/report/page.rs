//! What the report page must never do, and that it shows the values of the JSON.

use std::collections::BTreeSet;

use mana_load::report::model::{Operation, Second};
use mana_load::report::units::{number, seconds};
use mana_load::report::{Report, html};
use serde_json::Value;

use crate::fixture::{hostile, usual};

/// The folder where pages are kept for people to look at.
pub fn leave(name: &str, report: &Report) -> String {
    let page = html::page(report);
    std::fs::write(format!("{}/{name}.html", env!("CARGO_TARGET_TMPDIR")), &page).unwrap();
    page
}

fn read_back(report: &Report) -> Report {
    serde_json::from_str(&serde_json::to_string(report).unwrap()).unwrap()
}

#[test]
fn a_page_made_from_the_json_is_the_same_page() {
    for report in [usual(120, 1.0), hostile(), Report::default()] {
        assert_eq!(html::page(&read_back(&report)), html::page(&report));
    }
}

#[test]
fn numbers_of_the_tables_are_those_of_the_json() {
    let report = usual(120, 1.0);
    let page = leave("usual", &report);
    for operation in &report.operations {
        let row = page.split("<tr>").find(|row| row.starts_with(&format!("<td>{}", operation.name))).unwrap();
        let cells: Vec<&str> =
            row.split("<td class=\"number\">").skip(1).map(|c| c.split('<').next().unwrap()).collect();
        let (counts, latency) = (&operation.counts, &operation.latency);
        let rate = counts.done as f64 / operation.measured_seconds;
        let mut expected: Vec<String> =
            [counts.intended, counts.sent, counts.done, counts.failed()].map(|count| number(count as f64)).into();
        expected.push(format!("{}/s", number(rate)));
        let times = [
            latency.mean_seconds,
            latency.p50_seconds,
            latency.p90_seconds,
            latency.p99_seconds,
            latency.p999_seconds,
            latency.max_seconds,
        ];
        expected.extend(times.map(|time| seconds(time.unwrap())));
        assert_eq!(cells, expected);
    }
}

/// The data given to `plots.js` for the plot with this title.
fn data_of(page: &str, title: &str) -> Value {
    let figure = page.split("<figcaption>").find(|figure| figure.starts_with(&format!("{title}<"))).unwrap();
    let data = figure.split("<script type=\"application/json\">").nth(1).unwrap().split("</script>").next().unwrap();
    serde_json::from_str(data).unwrap()
}

#[test]
fn values_of_a_plot_are_those_of_the_series() {
    let report = usual(120, 1.0);
    let data = data_of(&html::page(&report), "pull: latency");
    for (line, pick) in [(0, "p50"), (1, "p99"), (2, "max")] {
        assert_eq!(data["lines"][line]["name"], pick);
        for (at, second) in report.series.iter().enumerate() {
            let latency = &second.operations["pull"].latency;
            let value = [latency.p50_seconds, latency.p99_seconds, latency.max_seconds][line].unwrap();
            let shown = data["lines"][line]["ys"][at].as_f64().unwrap();
            assert!((shown - value).abs() <= value * 1e-5, "{shown} for {value}");
        }
    }
}

#[test]
fn growth_has_a_table_and_a_plot_of_each_measurement() {
    let all = usual(30, 1.0);
    let lines = all.growth[0].lines.len();
    let page = leave("growth", &Report { growth: all.growth, ratios: Vec::new(), ..Report::default() });
    let section = page.split("By stored changes</h2>").nth(1).unwrap();
    for text in ["2 of 3 growth limits met", "rows by stored changes", "5,000,000", "1.07 ×", "at least 0.8"] {
        assert!(page.contains(text), "{text}");
    }
    assert_eq!(section.matches("<figure").count(), lines);
    // The limit of the third is far above its values.
    let lines_of = |title| data_of(&page, title)["lines"].as_array().unwrap().clone();
    assert_eq!(lines_of("push p50 by stored changes")[1]["name"], "limit: at most 1.2 × the first");
    assert_eq!(lines_of("processor while idle by stored changes").len(), 1);
    assert!(!page.contains("No operation was measured") && !page.contains("Not checked"));
}

#[test]
fn text_of_a_report_is_only_ever_text() {
    let page = leave("hostile", &hostile());
    let scripts: Vec<&str> = page.split("<script").skip(1).map(|rest| rest.split('>').next().unwrap()).collect();
    let kinds: BTreeSet<&str> = scripts.iter().copied().collect();
    assert_eq!(kinds, BTreeSet::from([" type=\"application/json\"", ""]));
    assert_eq!(scripts.iter().filter(|kind| kind.is_empty()).count(), 1, "the page's own script");
    assert!(!page.contains("<img"), "markup of a text became an element");
    assert_eq!(page.matches("</script").count(), scripts.len());
}

#[test]
fn it_needs_nothing_from_anywhere() {
    let page = html::page(&usual(30, 1.0));
    for fetched in ["src=", "href=", "url(", "@import", "fetch("] {
        assert!(!page.contains(fetched), "{fetched}");
    }
}

#[test]
fn empty_single_and_enormous_runs_have_a_page() {
    leave("empty", &Report::default());
    let one = Report {
        series: vec![Second { at_seconds: 1.0, length_seconds: 1.0, ..Second::default() }],
        operations: vec![Operation { name: "push".to_owned(), ..Operation::default() }],
        ..Report::default()
    };
    leave("one", &one);
    leave("single", &usual(1, 1.0));
    let page = leave("hour", &usual(3600, 1.0));
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    // Only a broken file has a second without a length; it must not break the page.
    let broken = Report {
        series: vec![
            Second { at_seconds: -1e300, ..Second::default() },
            Second { at_seconds: 1e300, ..Second::default() },
        ],
        ..one
    };
    leave("broken", &broken);
}
