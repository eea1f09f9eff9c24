//! Lines over the last five minutes.

use maud::{Markup, html};
use std::fmt::Write as _;

/// What the drawing measures; it is stretched to the page.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;
/// Seconds from the left to the right.
const SECONDS: usize = 300;

/// A line: how it is drawn, and its values, one a second, the newest last.
pub(super) struct Line {
    pub(super) class: String,
    pub(super) values: Vec<f64>,
}

/// A chart with its greatest value and the newest ones.
pub(super) fn chart(name: &str, write: fn(f64) -> String, lines: &[Line]) -> Markup {
    let most = lines.iter().flat_map(|line| &line.values).copied().fold(0.0, f64::max);
    let now: Vec<String> = lines.iter().filter_map(|line| line.values.last()).map(|value| write(*value)).collect();
    html! {
        figure.card {
            figcaption { strong { (name) } span.muted { "at most " (write(most)) } }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label={ (name) ": now " (now.join(", ")) ", at most " (write(most)) } {
                @for part in 1..4 {
                    line.grid x1="0" x2=(WIDTH) y1=(HEIGHT * f64::from(part) / 4.0) y2=(HEIGHT * f64::from(part) / 4.0) {}
                }
                @for line in lines { polyline class=(line.class) points=(points(&line.values, most)) {} }
            }
            div.axis { span { "5 min ago" } span { "now: " (now.join(" · ")) } }
        }
    }
}

fn points(values: &[f64], most: f64) -> String {
    let mut out = String::new();
    let first = SECONDS.saturating_sub(values.len());
    for (index, value) in values.iter().enumerate() {
        let x = WIDTH * (first + index + 1) as f64 / SECONDS as f64;
        let y = HEIGHT - 1.0 - if most > 0.0 { (HEIGHT - 4.0) * value / most } else { 0.0 };
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
        assert_eq!(points(&[0.0, 5.0, 10.0], 10.0), "596.0,119.0 598.0,61.0 600.0,3.0 ");
        assert_eq!(points(&[0.0], 0.0), "600.0,119.0 ");
        assert_eq!(points(&[], 0.0), "");
    }
}
