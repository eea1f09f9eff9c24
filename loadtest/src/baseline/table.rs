//! Formats the table for people.

use std::error::Error;
use std::fmt::Write as _;

use super::rows::{Name, Row};
use crate::engine::usage::BUSY;
use crate::report::model::{Limit, Measurement, Ratio, Unit};

/// Formats a value with its unit.
pub fn shown(measurement: &Measurement) -> String {
    let value = measurement.value;
    match measurement.unit {
        Unit::Seconds if value < 0.001 => format!("{:.0} µs", value * 1e6),
        Unit::Seconds => format!("{:.2} ms", value * 1e3),
        Unit::Bytes => format!("{:.2} KiB", value / 1024.0),
        Unit::PerSecond => format!("{value:.0}/s"),
        Unit::Share => format!("{:.2} %", value * 100.0),
        Unit::Number => format!("{value:.2}"),
    }
}

fn goal(ratio: &Ratio) -> String {
    match ratio.goal {
        Some(Limit::AtLeast(least)) => format!("≥ {least:.2}"),
        Some(Limit::AtMost(most)) => format!("≤ {most:.2}"),
        None => String::new(),
    }
}

fn verdict(ratio: &Ratio) -> &'static str {
    match ratio.reached {
        Some(true) => "reached",
        Some(false) => "MISSED",
        None => "",
    }
}

/// Renders the whole table, with the details of each row below it.
pub fn render(rows: &[Row]) -> String {
    let mut text = format!("{:<44} {:>12} {:>12} {:>7} {:>7}\n", "", "ours", "baseline", "ratio", "goal");
    for Row { ratio, .. } in rows {
        let share = ratio.ratio.map_or("—".to_owned(), |ratio| format!("{ratio:.2}"));
        let (ours, theirs) = (shown(&ratio.ours), shown(&ratio.baseline));
        let name = &ratio.name;
        let _ = writeln!(text, "{name:<44} {ours:>12} {theirs:>12} {share:>7} {:>7}  {}", goal(ratio), verdict(ratio));
    }
    text.push('\n');
    for row in rows {
        text.push_str(&detail(row));
    }
    text
}

/// Renders the details of a row.
pub fn detail(row: &Row) -> String {
    let Row { ratio, note, generator_busy } = row;
    let mut text = format!("{}: {} against {}. {note}.", ratio.name, ratio.ours.name, ratio.baseline.name);
    if *generator_busy > 0.0 {
        let _ = write!(text, " Generator busy {:.0} %", generator_busy * 100.0);
        text.push_str(if *generator_busy >= BUSY { ": IT WAS THE LIMIT.\n" } else { ".\n" });
    } else {
        text.push('\n');
    }
    text
}

/// Renders a row that could not be measured.
pub fn failure(name: Name, error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(format!("{name:?} could not be measured: {error}"), |text, cause| format!("{text}: {cause}"))
}
