//! Renders the growth of cost with size: for each dimension a table, and a plot of each measurement.

use maud::{Markup, html};

use super::plot::{Axis, Kind, Line, Plot};
use super::tables::mark;
use crate::report::model::{Growth, GrowthLine, Limit, Report, Unit};
use crate::report::units::{NONE, number, show_limit, show_or_none};

/// A limit further above the values than this would leave no room for them in the plot, and is only given as text.
const HIGHEST_LIMIT: f64 = 3.0;
/// Values and limit differ in colour and dashes.
const VALUE: usize = 0;
const LIMIT: usize = 3;

/// Renders all dimensions of a report.
pub fn sections(report: &Report) -> Markup {
    html! {
        @for growth in &report.growth {
            section {
                h2 { "By " (growth.size) }
                @if !growth.note.is_empty() { p.note { (growth.note) "." } }
                (table(growth))
                div.plots { @for line in &growth.lines { (plot(growth, line).draw()) } }
            }
        }
    }
}

fn table(growth: &Growth) -> Markup {
    html! {
        div.scroll { table {
            thead { tr {
                th { "" } th { (growth.size) } @for &size in &growth.sizes { th.number { (number(size)) } }
                th.number { "growth" } th { "limit" }
            } }
            tbody {
                @for line in &growth.lines { tr {
                    td { (mark(line.reached)) }
                    td { (line.name) }
                    @for &value in &line.values { td.number { (show_or_none(line.unit, value)) } }
                    td.number { (times(line)) }
                    td { (line.limit.map_or(NONE.to_owned(), |limit| show_limit(Unit::Number, limit))) }
                } }
            }
        } }
    }
}

fn times(line: &GrowthLine) -> String {
    line.factor.map_or(NONE.to_owned(), |factor| format!("{} ×", number(factor)))
}

fn plot(growth: &Growth, line: &GrowthLine) -> Plot {
    let highest = line.values.iter().flatten().copied().fold(0.0, f64::max);
    let bound = line.bound().filter(|&bound| bound <= highest * HIGHEST_LIMIT);
    let value = Line { name: line.name.clone(), colour: VALUE, dashed: false, ys: line.values.clone() };
    let limit = bound.zip(line.limit).map(|(bound, limit)| Line {
        name: match line.is_absolute {
            true => format!("limit: {}", show_limit(line.unit, limit)),
            false => format!("limit: {} the first", as_factor(limit)),
        },
        colour: LIMIT,
        dashed: true,
        ys: vec![Some(bound); growth.sizes.len()],
    });
    let lines: Vec<Line> = std::iter::once(value).chain(limit).collect();
    Plot {
        title: format!("{} by {}", line.name, growth.size),
        note: Some(note(line)),
        x: Axis::logarithmic(Kind::Quantity(Unit::Number)),
        y: Axis::linear(Kind::Quantity(line.unit)),
        xs: growth.sizes.clone(),
        lines,
        bands: Vec::new(),
        marked: true,
    }
}

fn as_factor(limit: Limit) -> String {
    show_limit(Unit::Number, limit) + " ×"
}

fn note(line: &GrowthLine) -> String {
    if line.is_absolute {
        return line.limit.map_or(String::new(), |limit| format!("{} is wanted.", show_limit(line.unit, limit)));
    }
    let limit = line.limit.map_or(String::new(), |limit| format!("; {} is wanted", as_factor(limit)));
    format!("The last is {} the first{limit}.", times(line))
}
