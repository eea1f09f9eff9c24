//! The verdict and the tables of the page.

use maud::{Markup, html};

use crate::report::model::{Growth, Measurement, Operation, Report, Unit};
use crate::report::units::{NONE, bytes, number, seconds, show, show_limit, show_or_none};

/// Renders title, outcome, and whether the generator was the bottleneck.
pub fn verdict(report: &Report) -> Markup {
    let parts: Vec<(&str, bool)> = report
        .checks
        .iter()
        .map(|check| (check.name.as_str(), check.passed))
        .chain(report.thresholds.iter().map(|threshold| (threshold.name.as_str(), threshold.passed)))
        .collect();
    let failed: Vec<&str> = parts.iter().filter(|(_, passed)| !passed).map(|(name, _)| *name).collect();
    let (class, word) = match (parts.is_empty(), failed.is_empty()) {
        (true, _) => ("open", "Not checked"),
        (false, true) => ("good", "Passed"),
        (false, false) => ("bad", "Failed"),
    };
    let length = report.series.last().map(|second| second.at_seconds);
    // Goals and limits on growth are judged separately.
    let judged_otherwise = !report.ratios.is_empty() || !report.growth.is_empty();
    html! {
        header {
            h1 { (report.name) }
            @if !report.description.is_empty() { p { (report.description) } }
            p.note {
                (report.started_at)
                @match length {
                    Some(length) => { ", for " (seconds(length)) }
                    None => { " – " (report.ended_at) }
                }
            }
        }
        @if !(parts.is_empty() && judged_otherwise) { div.verdict.(class) {
            strong { (word) }
            @if parts.is_empty() {
                span { "The run had no checks and no thresholds." }
            } @else if failed.is_empty() {
                span { "All " (report.checks.len()) " checks and " (report.thresholds.len()) " thresholds hold." }
            } @else {
                span { (failed.len()) " of " (parts.len()) " do not hold: " (failed.join(", ")) "." }
            }
        } }
        (goals(report))
        (limits(report))
        @let limit = report.generator.was_the_limit;
        div.verdict.(if limit == Some(true) { "bad" } else { "open" }) {
            strong { (match limit {
                Some(true) => "The generator was the limit",
                Some(false) => "The generator was not the limit",
                None => "It is not known whether the generator was the limit",
            }) }
            span { (report.generator.reason) }
        }
    }
}

fn goals(report: &Report) -> Markup {
    let reached: Vec<bool> = report.ratios.iter().filter_map(|ratio| ratio.reached).collect();
    let good = reached.iter().filter(|&&reached| reached).count();
    html! {
        @if !reached.is_empty() {
            div.verdict.(if good == reached.len() { "good" } else { "bad" }) {
                strong { (good) " of " (reached.len()) " goals reached" }
                span { "compared with baselines of the same run" }
            }
        }
    }
}

fn limits(report: &Report) -> Markup {
    let (good, all) = Growth::reached(&report.growth);
    let lines = report.growth.iter().flat_map(|growth| growth.lines.iter().map(move |line| (growth, line)));
    let missed = lines.filter(|(_, line)| line.reached == Some(false));
    let missed: Vec<String> = missed.map(|(growth, line)| format!("{} by {}", line.name, growth.size)).collect();
    html! {
        @if all > 0 {
            div.verdict.(if good == all { "good" } else { "bad" }) {
                strong { (good) " of " (all) " growth limits met" }
                span {
                    @if missed.is_empty() { "nothing grew beyond its limit" } @else { "beyond: " (missed.join(", ")) }
                }
            }
        }
    }
}

/// Renders promises and findings.
pub fn checks(report: &Report) -> Markup {
    html! {
        @if !report.thresholds.is_empty() || !report.checks.is_empty() {
            section {
                h2 { "Thresholds and checks" }
                div.scroll { table {
                    thead { tr { th { "" } th { "what" } th { "found" } th { "wanted" } } }
                    tbody {
                        @for threshold in &report.thresholds { tr {
                            td { (mark(Some(threshold.passed))) }
                            td { (threshold.name) }
                            td { (show_or_none(threshold.unit, threshold.measured)) }
                            td { (show_limit(threshold.unit, threshold.limit)) }
                        } }
                        @for check in &report.checks { tr {
                            td { (mark(Some(check.passed))) }
                            td { (check.name) }
                            td colspan="2" { (check.detail) }
                        } }
                    }
                } }
            }
        }
    }
}

/// Renders our numbers and the baselines' of the same run.
pub fn ratios(report: &Report) -> Markup {
    let cell = |measurement: &Measurement| {
        html! { (show(measurement.unit, measurement.value)) br; small { (measurement.name) } }
    };
    html! {
        @if !report.ratios.is_empty() {
            section {
                h2 { "Compared with baselines" }
                div.scroll { table {
                    thead { tr {
                        th { "" } th { "what" } th.number { "ours" } th.number { "baseline" } th.number { "ratio" }
                        th { "goal" }
                    } }
                    tbody {
                        @for ratio in &report.ratios { tr {
                            td { (mark(ratio.reached)) }
                            td { (ratio.name) @if !ratio.note.is_empty() { br; small { (ratio.note) } } }
                            td.number { (cell(&ratio.ours)) }
                            td.number { (cell(&ratio.baseline)) }
                            td.number { (show_or_none(Unit::Number, ratio.ratio)) }
                            td { (ratio.goal.map_or(NONE.to_owned(), |goal| show_limit(Unit::Number, goal))) }
                        } }
                    }
                } }
            }
        }
    }
}

/// Renders counts and latencies of each operation.
pub fn operations(report: &Report) -> Markup {
    let columns = ["intended", "sent", "done", "failed", "done/s", "mean", "p50", "p90", "p99", "p99.9", "max"];
    let cells = |operation: &Operation| {
        let (counts, latency) = (&operation.counts, &operation.latency);
        let time = |value| show_or_none(Unit::Seconds, value);
        [
            number(counts.intended as f64),
            number(counts.sent as f64),
            number(counts.done as f64),
            number(counts.failed() as f64),
            show_or_none(Unit::PerSecond, operation.done_per_second()),
            time(latency.mean_seconds),
            time(latency.p50_seconds),
            time(latency.p90_seconds),
            time(latency.p99_seconds),
            time(latency.p999_seconds),
            time(latency.max_seconds),
        ]
    };
    html! {
        @if !report.operations.is_empty() {
            section {
                h2 { "Operations" }
                p.note { "Measured phases only. Latency counts from the intended time to the answer." }
                div.scroll { table {
                    thead { tr { th { "operation" } @for column in columns { th.number { (column) } } } }
                    tbody {
                        @for operation in &report.operations { tr {
                            td { (operation.name) }
                            @for cell in cells(operation) { td.number { (cell) } }
                        } }
                    }
                } }
            }
        }
    }
}

/// Renders the machine and the settings.
pub fn about(report: &Report) -> Markup {
    let machine = &report.machine;
    let tool = &report.tool;
    html! {
        section {
            h2 { "About this run" }
            div.scroll { table.facts {
                (fact("Machine", &format!(
                    "{}, {} cores, {}; {}, Linux {}",
                    machine.cpu_model, machine.cpu_cores, bytes(machine.memory_bytes as f64), machine.os, machine.kernel
                )))
                (fact("Load kit", &format!("{} {} ({})", tool.name, tool.version, tool.profile)))
                @for replica in &report.replicas {
                    @let version = if replica.version.is_empty() { "did not answer" } else { &replica.version };
                    (fact(&replica.name, &format!("{}, version {version}", replica.url)))
                }
                @if let Some(database) = &report.database { (fact("PostgreSQL", &database.version)) }
                (fact("Targets", &report.settings.targets.join(", ")))
                (fact("Generator", &format!(
                    "{} threads, {} of processor time in the measured phases",
                    report.generator.threads, seconds(report.generator.cpu_seconds)
                )))
                (fact("Start and end", &format!("{} – {}", report.started_at, report.ended_at)))
            } }
            (phases(report))
            @if let Some(database) = &report.database {
                details {
                    summary { "PostgreSQL's settings" }
                    div.scroll { table.facts {
                        @for (name, value) in &database.settings { (fact(name, value)) }
                    } }
                }
            }
            @if !report.settings.scenario.is_null() {
                details {
                    summary { "The scenario that was run" }
                    // Formatting a value that was read or built as JSON does not fail.
                    pre { (serde_json::to_string_pretty(&report.settings.scenario).unwrap_or_default()) }
                }
            }
        }
    }
}

fn phases(report: &Report) -> Markup {
    html! {
        @if !report.phases.is_empty() {
            div.scroll { table {
                thead { tr { th { "phase" } th.number { "from" } th.number { "to" } th { "" } } }
                tbody {
                    @for phase in &report.phases { tr {
                        td { (phase.name) }
                        td.number { (seconds(phase.start_seconds)) }
                        td.number { (seconds(phase.end_seconds)) }
                        td { @if phase.measured { "measured" } @else { "not measured" } }
                    } }
                }
            } }
        }
    }
}

fn fact(name: &str, value: &str) -> Markup {
    html! { tr { th { (name) } td { (value) } } }
}

/// A sign and a word: not everyone sees colours, and not every printer prints them.
pub fn mark(passed: Option<bool>) -> Markup {
    match passed {
        Some(true) => html! { span.mark.good { "✓ yes" } },
        Some(false) => html! { span.mark.bad { "✗ no" } },
        None => html! { span.mark { (NONE) } },
    }
}
