//! Renders a comparison as a page, in the form of a run's page.

use maud::{Markup, html};

use super::show::METHOD;
use super::{Comparison, Outcome, Row};
use crate::report::html::document;

/// Renders the page.
pub fn page(comparison: &Comparison) -> String {
    let worse = comparison.rows.iter().any(|row| row.outcome == Outcome::Worse) || !comparison.broken.is_empty();
    let better = comparison.rows.iter().any(|row| row.outcome == Outcome::Better);
    let class = if worse {
        "bad"
    } else if better {
        "good"
    } else {
        "open"
    };
    let [first, second] = &comparison.runs;
    let body = html! {
        header {
            h1 { "Two runs compared" }
            p { "A: " (first) }
            p { "B: " (second) }
        }
        div.verdict.(class) { div { @for line in comparison.summary().lines() { p.line { (line) } } } }
        @for name in &comparison.broken { div.verdict.bad { strong { "Broken in B" } span { (name) } } }
        @for warning in &comparison.warnings { div.verdict.bad { strong { "Doubtful" } span { (warning) } } }
        (differences(comparison))
        section {
            h2 { "Values" }
            div.scroll { table {
                thead { tr { th { "" } th.number { "A" } th.number { "B" } th.number { "change" } th { "" } } }
                tbody { @for row in &comparison.rows { (row_of(row)) } }
            } }
            p.note { (METHOD) }
        }
    };
    document("Two runs compared", &body).into_string()
}

fn row_of(row: &Row) -> Markup {
    let [name, first, second, change, outcome] = row.cells();
    let class = match row.outcome {
        Outcome::Better => "mark good",
        Outcome::Worse => "mark bad",
        Outcome::WithinNoise | Outcome::Unknown | Outcome::Missing => "note",
    };
    html! {
        tr {
            td { (name) } td.number { (first) } td.number { (second) } td.number { (change) }
            td { span class=(class) { (outcome) } }
        }
    }
}

fn differences(comparison: &Comparison) -> Markup {
    html! {
        @if !comparison.differences.is_empty() {
            section {
                h2 { "Differences between the runs" }
                div.scroll { table {
                    thead { tr { th { "" } th { "A" } th { "B" } } }
                    tbody {
                        @for difference in &comparison.differences { tr {
                            td { (difference.what) } td { (difference.first) } td { (difference.second) }
                        } }
                    }
                } }
            }
        }
    }
}
