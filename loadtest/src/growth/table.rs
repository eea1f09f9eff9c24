//! Formats the table for people: a block for each dimension, with its sizes as columns.

use std::error::Error;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::Dimension;
use crate::report::model::{Growth, GrowthLine, Limit};
use crate::report::units::{NONE, number, show_or_none};

/// The ratio of the last to the first.
fn factor(line: &GrowthLine) -> String {
    line.factor.map_or(NONE.to_owned(), |factor| format!("{factor:.2}"))
}

/// The limit of that ratio.
fn limit(line: &GrowthLine) -> String {
    match line.limit {
        Some(Limit::AtLeast(least)) => format!("≥ {}", number(least)),
        Some(Limit::AtMost(most)) => format!("≤ {}", number(most)),
        None => String::new(),
    }
}

fn verdict(line: &GrowthLine) -> String {
    let word = match line.reached {
        Some(true) => "reached",
        Some(false) => "MISSED",
        None => "",
    };
    word.to_owned()
}

/// Renders all dimensions, with a note below each on how it was measured.
pub fn render<'a>(growths: impl Iterator<Item = &'a Growth>) -> String {
    growths.map(block).collect::<Vec<_>>().join("\n")
}

fn block(growth: &Growth) -> String {
    let mut titles = vec![format!("{}: {}", growth.name, growth.size)];
    titles.extend(growth.sizes.iter().map(|&size| number(size)));
    titles.extend(["growth", "limit", ""].map(str::to_owned));
    let row = |line: &GrowthLine| {
        let mut cells = vec![format!("  {}", line.name)];
        cells.extend(line.values.iter().map(|&value| show_or_none(line.unit, value)));
        cells.extend([factor(line), limit(line), verdict(line)]);
        cells
    };
    let last = titles.len() - 1;
    let mut table = Table::new();
    table.load_preset(NOTHING).add_row(titles).add_rows(growth.lines.iter().map(row));
    for (number, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if number > 0 && number < last {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n  {}.\n", table.trim_fmt(), growth.note)
}

/// Renders a dimension that could not be measured.
pub fn failure(dimension: Dimension, error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(format!("{dimension:?} could not be measured: {error}"), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Unit;

    #[test]
    fn a_block_has_a_column_for_each_size_and_a_verdict() {
        let growth = Growth {
            name: "stored".to_owned(),
            size: "stored changes".to_owned(),
            note: "One at a time".to_owned(),
            sizes: vec![50_000.0, 5_000_000.0],
            lines: vec![
                GrowthLine::new("push p50", Unit::Seconds, vec![0.001, 0.0011], Some(Limit::AtMost(1.2))),
                GrowthLine::new("rate", Unit::PerSecond, vec![1000.0, 500.0], Some(Limit::AtLeast(0.6))),
                GrowthLine::new("other", Unit::Number, vec![0.0, f64::NAN], None),
            ],
        };
        let expected = "\
stored: stored changes   50,000  5,000,000  growth  limit
  push p50                 1 ms     1.1 ms    1.10  ≤ 1.2  reached
  rate                  1,000/s      500/s    0.50  ≥ 0.6  MISSED
  other                       0          –       –
  One at a time.
";
        assert_eq!(render([&growth].into_iter()), expected);
    }
}
