//! Line charts of the last five minutes.

use maud::{Markup, html};
use std::fmt::Write as _;

/// Size of the drawing; it is stretched to the page.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;
/// Seconds from left to right.
const SECONDS: usize = 300;

/// A line: its CSS class, and one value per second, newest last; `None` is a gap.
pub(super) struct Line {
    pub(super) class: String,
    pub(super) values: Vec<Option<f64>>,
}

/// Draws a chart with its maximum and current values.
pub(super) fn chart(name: &str, write: fn(f64) -> String, lines: &[Line]) -> Markup {
    let most = lines.iter().flat_map(|line| &line.values).flatten().copied().reduce(f64::max);
    let text = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), write);
    let now: Vec<String> = lines.iter().filter_map(|line| line.values.last()).map(|value| text(*value)).collect();
    let now = now.join(" · ");
    let at_most = most.map_or_else(|| "nothing measured".to_owned(), |most| format!("at most {}", write(most)));
    html! {
        figure.card {
            figcaption { strong { (name) } span.muted { (at_most) } }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label={ (name) ": now " (now) ", " (at_most) } {
                @for part in 1..4 {
                    line.grid x1="0" x2=(WIDTH) y1=(HEIGHT * f64::from(part) / 4.0) y2=(HEIGHT * f64::from(part) / 4.0) {}
                }
                @for line in lines {
                    @for run in runs(&line.values, most.unwrap_or(0.0)) { polyline class=(line.class) points=(run) {} }
                }
            }
            div.axis { span { "5 min ago" } span { "now: " (now) } }
        }
    }
}

/// Returns the points of each part of a line without gaps.
fn runs(values: &[Option<f64>], most: f64) -> Vec<String> {
    let first = SECONDS.saturating_sub(values.len());
    let mut runs = Vec::new();
    for run in values.chunk_by(|before, after| before.is_some() == after.is_some()) {
        let start = runs.iter().map(|(_, length)| length).sum::<usize>();
        runs.push((points(run, first + start, most), run.len()));
    }
    runs.into_iter().map(|(points, _)| points).filter(|points| !points.is_empty()).collect()
}

/// Returns consecutive values as points; the first one is at `second`.
fn points(values: &[Option<f64>], second: usize, most: f64) -> String {
    let mut out = String::new();
    for (index, value) in values.iter().enumerate() {
        let Some(value) = value else { continue };
        let x = WIDTH * (second + index + 1) as f64 / SECONDS as f64;
        let y = HEIGHT - 1.0 - if most > 0.0 { (HEIGHT - 4.0) * value / most } else { 0.0 };
        // A single value would be invisible.
        if values.len() == 1 {
            let _ = write!(out, "{:.1},{y:.1} ", x - WIDTH / SECONDS as f64);
        }
        // Writing to a string cannot fail.
        let _ = write!(out, "{x:.1},{y:.1} ");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_value_is_at_the_right_and_the_greatest_at_the_top() {
        assert_eq!(runs(&[Some(0.0), Some(5.0), Some(10.0)], 10.0), ["596.0,119.0 598.0,61.0 600.0,3.0 "]);
        assert_eq!(runs(&[Some(0.0), Some(0.0)], 0.0), ["598.0,119.0 600.0,119.0 "]);
        assert!(runs(&[], 0.0).is_empty() && runs(&[None, None], 0.0).is_empty());
    }

    #[test]
    fn where_nothing_was_measured_is_a_gap() {
        let values = [Some(1.0), Some(1.0), None, None, Some(1.0), None];
        assert_eq!(runs(&values, 1.0), ["590.0,3.0 592.0,3.0 ", "596.0,3.0 598.0,3.0 "]);
    }
}
