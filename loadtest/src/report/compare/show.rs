//! Formats a comparison for the terminal.

use std::fmt;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::{Comparison, Outcome, Row};
use crate::report::units::{NONE, number, show_or_none};

/// Explains how noise is judged, for people.
pub(super) const METHOD: &str = "Better and worse: the totals differ by more than 3 %, and ten windows of one run \
     differ from their counterparts in the other in the same way (signed-rank test, 1 %). Failures are judged by their \
     number (1 %). Ratios to baselines have no timeline: from 10 % on; growth from 25 % on. What differs from run to \
     run but not within one is not seen: repeat runs.";

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = &self.runs;
        writeln!(f, "A: {first}\nB: {second}\n")?;
        table(f, &self.rows)?;
        writeln!(f, "\n{}", self.summary())?;
        for name in &self.broken {
            writeln!(f, "BROKEN in B: {name}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "WARNING: {warning}")?;
        }
        if !self.differences.is_empty() {
            writeln!(f, "WARNING: the runs were made under different conditions:")?;
        }
        for difference in &self.differences {
            let shown = |value: &str| if value.is_empty() { NONE.to_owned() } else { value.to_owned() };
            let (first, second) = (shown(&difference.first), shown(&difference.second));
            writeln!(f, "  {}: {first} in A, {second} in B", difference.what)?;
        }
        writeln!(f, "\n{METHOD}")
    }
}

impl Comparison {
    /// Summarises what changed beyond noise in a sentence.
    pub fn summary(&self) -> String {
        let named = |outcome: Outcome| -> Vec<String> {
            let rows = self.rows.iter().filter(|row| row.outcome == outcome);
            rows.map(|row| format!("{} ({})", row.name, row.change_text())).collect()
        };
        let (better, worse, unknown) = (named(Outcome::Better), named(Outcome::Worse), named(Outcome::Unknown));
        let mut parts = Vec::new();
        for (names, word) in [(&worse, "Worse"), (&better, "Better"), (&unknown, "Too little to tell")] {
            if !names.is_empty() {
                parts.push(format!("{word}: {}.", names.join(", ")));
            }
        }
        if worse.is_empty() && better.is_empty() {
            let told = if unknown.is_empty() { "" } else { ", as far as can be told" };
            parts.insert(0, format!("Nothing changed beyond noise{told}."));
        }
        parts.join("\n")
    }
}

impl Row {
    /// Formats the change as `+12 %`; a change from zero has no percentage.
    pub fn change_text(&self) -> String {
        match self.change {
            Some(change) if change >= 0.0 => format!("+{} %", number(change * 100.0)),
            Some(change) => format!("{} %", number(change * 100.0)),
            None => NONE.to_owned(),
        }
    }

    /// Returns the outcome in words.
    pub fn outcome_text(&self) -> &'static str {
        match self.outcome {
            Outcome::Better => "better",
            Outcome::Worse => "WORSE",
            Outcome::WithinNoise => "within noise",
            Outcome::Unknown => "too little to tell",
            Outcome::Missing => "not in both",
        }
    }

    /// Returns the cells of the table row.
    pub fn cells(&self) -> [String; 5] {
        [
            self.name.clone(),
            show_or_none(self.unit, self.first),
            show_or_none(self.unit, self.second),
            self.change_text(),
            self.outcome_text().to_owned(),
        ]
    }
}

fn table(f: &mut fmt::Formatter<'_>, rows: &[Row]) -> fmt::Result {
    let mut table = Table::new();
    table.load_preset(NOTHING).add_row(["", "A", "B", "change", ""]).add_rows(rows.iter().map(Row::cells));
    for (number, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if (1..=3).contains(&number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(f, "{}", table.trim_fmt())
}
