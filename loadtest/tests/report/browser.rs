//! Reports in Chromium: tooltips show the values of the report. `make test-browser`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use mana_load::report::model::{Growth, Report, Unit};
use mana_load::report::units::{NONE, seconds, show};
use serde_json::{Value, json};

use crate::fixture::{hostile, usual};
use crate::page::leave;

/// Seconds of the usual run.
const LENGTH: u32 = 120;

/// Places in the data, and what the pointer shows there.
fn points(places: &[usize], texts: impl Fn(usize) -> Vec<String>) -> Value {
    places.iter().map(|&at| json!({ "at": at, "texts": texts(at) })).collect()
}

/// `1:05 · steady`
fn moment(at: usize) -> String {
    let second = at + 1;
    let phase = match second as f64 / f64::from(LENGTH) {
        part if part <= 0.2 => "ramp",
        part if part <= 0.8 => "steady",
        _ => "storm",
    };
    format!("{}:{:02} · {phase}", second / 60, second % 60)
}

fn latencies(report: &Report, at: usize) -> Vec<String> {
    let latency = &report.series[at].operations["pull"].latency;
    let values = [("p50", latency.p50_seconds), ("p99", latency.p99_seconds), ("max", latency.max_seconds)];
    let lines = values.map(|(name, value)| format!("{name}: {}", seconds(value.unwrap())));
    std::iter::once(moment(at)).chain(lines).collect()
}

fn memory(report: &Report, at: usize) -> Vec<String> {
    let lines = report.replicas.iter().zip(&report.series[at].replicas).map(|(replica, sample)| {
        let bytes = sample.as_ref().map(|sample| show(Unit::Bytes, sample.resident_bytes as f64));
        format!("{}: {}", replica.name, bytes.as_deref().unwrap_or(NONE))
    });
    std::iter::once(moment(at)).chain(lines).collect()
}

fn rows(growth: &Growth, at: usize) -> Vec<String> {
    let value = growth.lines[1].values[at].unwrap();
    let limit = growth.lines[1].bound().unwrap();
    vec![
        show(Unit::Number, growth.sizes[at]),
        format!("rows: {}", show(Unit::PerSecond, value)),
        format!("limit: at least 0.8 × the first: {}", show(Unit::PerSecond, limit)),
    ]
}

/// Odds of ten: nine in ten were quicker.
fn distribution(report: &Report) -> Vec<String> {
    let lines = report.operations.iter().map(|operation| {
        let value = operation.latency_histogram_microseconds.quantile_seconds(0.9).unwrap();
        format!("{}: {}", operation.name, seconds(value))
    });
    std::iter::once("90 %".to_owned()).chain(lines).collect()
}

#[test]
#[ignore = "needs Chromium: make test-browser"]
fn the_pointer_shows_what_the_report_says() {
    let report = usual(LENGTH, 1.0);
    for (name, report) in [
        ("usual", &report),
        ("hostile", &hostile()),
        ("single", &usual(1, 1.0)),
        ("hour", &usual(3600, 1.0)),
        ("empty", &Report::default()),
        ("growth", &Report { growth: report.growth.clone(), ..Report::default() }),
    ] {
        leave(&format!("browser-{name}"), report);
    }
    // Replica 2 is away in the 66th second.
    let settings = json!({
        "folder": env!("CARGO_TARGET_TMPDIR"),
        "expected": {
            "pull: latency": points(&[0, 23, 24, 64, 119], |at| latencies(&report, at)),
            "Resident memory": points(&[10, 65, 100], |at| memory(&report, at)),
            "Latency by share of requests": points(&[20], |_| distribution(&report)),
            "rows by stored changes": points(&[0, 1, 2], |at| rows(&report.growth[0], at)),
        },
        "screenshots": std::env::var("SCREENSHOTS").ok(),
    });
    let mut node = Command::new("node")
        .arg("report/main.js")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/browser"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("scripts/bootstrap browser installs node");
    node.stdin.take().unwrap().write_all(settings.to_string().as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
