//! A plot as SVG: lines over an axis that they share, phases as bands behind them, a legend, and the values for the
//! pointer as JSON that `hover.js` shows.

use std::fmt::Write as _;

use maud::{Markup, PreEscaped, html};
use serde_json::{Value, json};

use super::axis::Axis;
use crate::report::units::NONE;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 270.0;
/// Where the axes cross, and where they end.
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = HEIGHT - 26.0;
/// The colours that `style.css` has. There are more lines than colours in a few reports; dashes tell them apart.
const COLOURS: usize = 8;

/// Several lines over one axis.
pub struct Plot {
    pub title: String,
    pub note: Option<String>,
    pub x: Axis,
    pub y: Axis,
    pub xs: Vec<f64>,
    pub lines: Vec<Line>,
    pub bands: Vec<Band>,
    /// Each point was measured by itself: it gets a mark, and the x axis its ticks where points are.
    pub marked: bool,
}

/// A value for each of the plot's `xs`; none: a gap.
pub struct Line {
    pub name: String,
    pub colour: usize,
    pub dashed: bool,
    pub ys: Vec<Option<f64>>,
}

/// A range of the x axis.
pub struct Band {
    pub name: String,
    pub from: f64,
    pub to: f64,
    /// Paler, as it does not count.
    pub faint: bool,
}

impl Plot {
    /// The figure, with a sentence in place of the plot where there is nothing to draw.
    pub fn draw(&self) -> Markup {
        let empty = self.lines.iter().all(|line| line.ys.iter().all(Option::is_none));
        html! {
            figure.plot {
                figcaption { (self.title) }
                @if empty {
                    p.empty { "Nothing was recorded." }
                } @else {
                    (self.legend())
                    (self.svg())
                    @if let Some(note) = &self.note { p.note { (note) } }
                    script type="application/json" { (PreEscaped(script_json(&self.hover()))) }
                }
            }
        }
    }

    fn legend(&self) -> Markup {
        html! {
            ul.legend {
                @for line in &self.lines {
                    li { svg viewBox="0 0 22 8" aria-hidden="true" {
                        path class=(class(line)) d="M1 4H21" {}
                    } (line.name) }
                }
            }
        }
    }

    fn svg(&self) -> Markup {
        html! {
            svg.chart viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(self.title) {
                @for (index, band) in self.bands.iter().enumerate() { (self.band(index, band)) }
                @for (value, label) in self.y.ticks() {
                    @let y = coordinate(self.y_of(value));
                    path.grid d={ "M" (LEFT) " " (y) "H" (RIGHT) } {}
                    text.tick.y x=(LEFT - 6.0) y=(y) { (label) }
                }
                @for (value, label) in self.x_ticks() {
                    @let x = coordinate(self.x_of(value));
                    path.grid d={ "M" (x) " " (BOTTOM) "v4" } {}
                    // A label at the end would be cut in its middle.
                    text.tick.x.end[x > RIGHT - 24.0] x=(x) y=(BOTTOM + 17.0) { (label) }
                }
                @for line in &self.lines {
                    path class=(class(line)) d=(self.path(line)) {}
                    path class={ (class(line)) " dot" } d=(self.dots(line)) {}
                }
                path.axis d={ "M" (LEFT) " " (TOP) "V" (BOTTOM) "H" (RIGHT) } {}
                path.cursor d={ "M0 " (TOP) "V" (BOTTOM) } {}
            }
        }
    }

    fn x_ticks(&self) -> Vec<(f64, String)> {
        match self.marked {
            true => self.xs.iter().map(|&x| (x, self.x.label(x))).collect(),
            false => self.x.ticks(),
        }
    }

    fn band(&self, index: usize, band: &Band) -> Markup {
        let (from, to) = (self.x_of(band.from), self.x_of(band.to));
        let width = (to - from).max(0.0);
        // About as many letters as fit; the rest is told by the pointer.
        let letters = (width / 6.2) as usize;
        let name: String = match band.name.chars().count() {
            all if all <= letters => band.name.clone(),
            _ if letters < 4 => String::new(),
            _ => band.name.chars().take(letters - 1).chain(['…']).collect(),
        };
        let class = format!("band b{}{}", index % 2, if band.faint { " faint" } else { "" });
        html! {
            rect class=(class) x=(coordinate(from)) y=(TOP) width=(coordinate(width)) height=(BOTTOM - TOP) {
                title { (band.name) }
            }
            text.phase x=(coordinate(from + 3.0)) y=(TOP - 6.0) { (name) title { (band.name) } }
        }
    }

    /// The line, broken at gaps.
    fn path(&self, line: &Line) -> String {
        let mut path = String::new();
        for range in self.points(line).split(Option::is_none).filter(|range| range.len() > 1) {
            for (index, (x, y)) in range.iter().flatten().enumerate() {
                let command = if index == 0 { 'M' } else { 'L' };
                // Writing to a string does not fail.
                let _ = write!(path, "{command}{} {}", coordinate(*x), coordinate(*y));
            }
        }
        path
    }

    /// Values with a gap on either side, which no line would show; or all that are marked.
    fn dots(&self, line: &Line) -> String {
        let (points, all) = (self.points(line), self.marked && !line.dashed);
        let alone = points.split(Option::is_none).filter(|range| all || range.len() == 1).flatten().flatten();
        alone.map(|(x, y)| format!("M{} {}h0", coordinate(*x), coordinate(*y))).collect()
    }

    fn points(&self, line: &Line) -> Vec<Option<(f64, f64)>> {
        self.xs.iter().zip(&line.ys).map(|(&x, y)| y.map(|y| (self.x_of(x), self.y_of(y)))).collect()
    }

    fn x_of(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (RIGHT - LEFT)
    }

    fn y_of(&self, value: f64) -> f64 {
        BOTTOM - self.y.place(value) * (BOTTOM - TOP)
    }

    /// For `hover.js`: where the points are, and the texts for each.
    fn hover(&self) -> Value {
        let lines = self.lines.iter().map(|line| {
            let text = |y: &Option<f64>| y.map_or(NONE.to_owned(), |y| self.y.label(y));
            json!({ "name": line.name, "texts": line.ys.iter().map(text).collect::<Vec<_>>() })
        });
        json!({
            "xs": self.xs.iter().map(|&x| coordinate(self.x_of(x))).collect::<Vec<_>>(),
            "labels": self.xs.iter().map(|&x| self.x.label(x)).collect::<Vec<_>>(),
            "lines": lines.collect::<Vec<_>>(),
        })
    }
}

fn class(line: &Line) -> String {
    let dashed = line.dashed || line.colour >= COLOURS;
    format!("line c{}{}", line.colour % COLOURS, if dashed { " dashed" } else { "" })
}

/// Tenths are finer than any screen, and keep the page small.
fn coordinate(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// JSON that can stand within a script element: nothing in it can end the element or begin a comment.
fn script_json(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::super::axis::Kind;
    use super::*;
    use crate::report::model::Unit;

    fn plot(ys: Vec<Option<f64>>) -> Plot {
        let values = ys.iter().flatten().copied().collect::<Vec<_>>();
        let xs: Vec<f64> = (0..ys.len()).map(|n| n as f64).collect();
        Plot {
            title: "</script><script>alert(1)</script>".to_owned(),
            note: None,
            x: Axis::linear(Kind::Clock, xs.iter().copied()),
            y: Axis::linear(Kind::Quantity(Unit::Number), values.into_iter()),
            xs,
            lines: vec![Line { name: "<!--".to_owned(), colour: 0, dashed: false, ys }],
            bands: Vec::new(),
            marked: false,
        }
    }

    #[test]
    fn marked_points_have_dots_and_ticks() {
        let marked = Plot { marked: true, ..plot(vec![Some(1.0), Some(2.0), None, Some(3.0)]) };
        assert_eq!(marked.dots(&marked.lines[0]).matches("h0").count(), 3);
        assert_eq!(marked.x_ticks().len(), 4);
    }

    #[test]
    fn gaps_break_a_line_and_single_points_are_seen() {
        let plot = plot(vec![Some(1.0), Some(2.0), None, Some(3.0), None]);
        let path = plot.path(&plot.lines[0]);
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (1, 1), "{path}");
        let dots = plot.dots(&plot.lines[0]);
        assert_eq!((dots.matches('M').count(), dots.matches("h0").count()), (1, 1), "{dots}");
    }

    #[test]
    fn text_cannot_leave_its_place() {
        let page = plot(vec![Some(1.0)]).draw().into_string();
        assert!(!page.contains("<script>") && !page.contains("<!--"), "{page}");
        assert_eq!(page.matches("</script>").count(), 1);
    }

    #[test]
    fn nothing_to_draw_is_said() {
        assert!(plot(vec![None, None]).draw().into_string().contains("Nothing was recorded."));
        assert!(plot(vec![]).draw().into_string().contains("Nothing was recorded."));
    }
}
