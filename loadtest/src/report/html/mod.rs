//! Renders a page for people: first the verdict, then the reasons, the course of the run, and its surroundings. It
//! needs no network and no other file, so it can be attached to a decision.
//!
//! All of it is made from the [`Report`] alone; maud escapes every text.

mod charts;
mod growth;
mod plot;
mod tables;
mod thin;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::model::Report;
use charts::Charts;

/// Renders the page.
pub fn page(report: &Report) -> String {
    let body = html! {
        (tables::verdict(report))
        (tables::checks(report))
        (tables::ratios(report))
        (tables::operations(report))
        (growth::sections(report))
        // Ratios and growth have no timeline.
        @if !(report.series.is_empty() && report.operations.is_empty()) { (timeline(report)) }
        (tables::about(report))
        (plot::library())
    };
    document(&report.name, &body).into_string()
}

/// Renders the run, second by second.
fn timeline(report: &Report) -> Markup {
    let charts = Charts::new(report);
    html! {
        section {
            h2 { "Latency" }
            @if report.operations.is_empty() { p.empty { "No operation was measured." } }
            p.note { "Drag over a plot to zoom all of them, double-click to see everything, click on a name to hide its line." }
            div.plots {
                @for plot in charts.latencies() { (plot.draw()) }
                @if !report.operations.is_empty() { (charts.distribution().draw()) }
            }
        }
        section {
            h2 { "Throughput and errors" }
            div.plots {
                @for plot in charts.throughputs() { (plot.draw()) }
                @if let Some(plot) = charts.errors() { (plot.draw()) }
                @if let Some(plot) = charts.connections() { (plot.draw()) }
            }
            @if charts.errors().is_none() { p.empty { "There were no errors." } }
        }
        section {
            h2 { "Resources" }
            div.plots {
                (charts.cpu().draw())
                @match charts.memory() {
                    Some(plot) => (plot.draw()),
                    None => p.empty { "No replica's metrics were read." }
                }
                @if let Some(plot) = charts.lateness() { (plot.draw()) }
            }
        }
    }
}

/// The frame of every page.
pub(super) fn document(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " – mana-load" }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body { main { (body) } }
        }
    }
}
