//! A plot: lines over a shared axis, with phases as bands behind them. The page contains it as JSON, and `plots.js`
//! draws it with uPlot.

use maud::{Markup, PreEscaped, html};
use serde::{Serialize, Serializer};

use crate::report::model::Unit;

/// Several lines over one axis.
#[derive(Serialize)]
pub struct Plot {
    #[serde(skip)]
    pub title: String,
    #[serde(skip)]
    pub note: Option<String>,
    pub x: Axis,
    pub y: Axis,
    #[serde(serialize_with = "short_numbers")]
    pub xs: Vec<f64>,
    pub lines: Vec<Line>,
    pub bands: Vec<Band>,
    /// True if each point was measured individually: points get marks, and the x axis has its ticks at points.
    pub marked: bool,
}

/// The contents and form of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Axis {
    pub unit: Kind,
    pub logarithmic: bool,
}

/// Determines the ticks of an axis, and the format of its values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Seconds since the start, as minutes and seconds.
    Clock,
    /// `1 / (1 - share)`: each step to the right is a tenth of the remaining requests.
    Tail,
    #[serde(untagged)]
    Quantity(Unit),
}

/// A value for each of the plot's `xs`; `None` is a gap.
#[derive(Serialize)]
pub struct Line {
    pub name: String,
    pub colour: usize,
    pub dashed: bool,
    #[serde(serialize_with = "short_or_gap")]
    pub ys: Vec<Option<f64>>,
}

/// A range of the x axis.
#[derive(Serialize)]
pub struct Band {
    pub name: String,
    pub from: f64,
    pub to: f64,
    /// Paler, because it does not count.
    pub faint: bool,
}

impl Axis {
    pub fn linear(unit: Kind) -> Self {
        Self { unit, logarithmic: false }
    }

    pub fn logarithmic(unit: Kind) -> Self {
        Self { unit, logarithmic: true }
    }
}

impl Plot {
    /// Renders the figure, with a sentence instead of the plot if there is nothing to draw.
    pub fn draw(&self) -> Markup {
        html! {
            figure.plot {
                figcaption { (self.title) }
                @match self.data() {
                    None => p.empty { "Nothing was recorded." }
                    Some(data) => {
                        div.chart role="img" aria-label=(self.title) {}
                        @if let Some(note) = &self.note { p.note { (note) } }
                        script type="application/json" { (PreEscaped(data)) }
                    }
                }
            }
        }
    }

    /// JSON for use within a script element: nothing in it can end the element or begin a comment. None if there is
    /// nothing to draw.
    fn data(&self) -> Option<String> {
        let nothing = self.lines.iter().all(|line| line.ys.iter().all(Option::is_none));
        // All keys are strings, and no member fails to serialize.
        let json = serde_json::to_string(self).ok().filter(|_| !nothing)?;
        Some(json.replace('<', "\\u003c"))
    }
}

/// The code that draws all plots of a page; included once, after them.
pub fn library() -> Markup {
    html! {
        noscript { p.note { "Plots are drawn by JavaScript." } }
        style { (PreEscaped(include_str!("../../../vendor/uplot/uPlot.min.css"))) }
        script {
            (PreEscaped(include_str!("../../../vendor/uplot/uPlot.iife.min.js")))
            (PreEscaped(include_str!("units.js")))
            (PreEscaped(include_str!("plots.js")))
        }
    }
}

fn short_numbers<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|&value| short(value)))
}

fn short_or_gap<S: Serializer>(values: &[Option<f64>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|value| value.map(short)))
}

/// Rounds to six digits: finer than any screen, and it keeps the page small.
fn short(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn plot(ys: Vec<Option<f64>>) -> Plot {
        Plot {
            title: "</script><script>alert(1)</script>".to_owned(),
            note: None,
            x: Axis::linear(Kind::Clock),
            y: Axis::logarithmic(Kind::Quantity(Unit::PerSecond)),
            xs: (0..ys.len()).map(|n| n as f64).collect(),
            lines: vec![Line { name: "<!--".to_owned(), colour: 0, dashed: false, ys }],
            bands: Vec::new(),
            marked: false,
        }
    }

    #[test]
    fn data_has_what_plots_js_reads() {
        let data = plot(vec![Some(1.0 / 3.0), None, Some(f64::NAN)]).data().unwrap();
        let data: Value = serde_json::from_str(&data).unwrap();
        let line = json!({ "name": "<!--", "colour": 0, "dashed": false, "ys": [0.333333, null, null] });
        assert_eq!(
            data,
            json!({
                "x": { "unit": "clock", "logarithmic": false },
                "y": { "unit": "per_second", "logarithmic": true },
                "xs": [0.0, 1.0, 2.0],
                "lines": [line],
                "bands": [],
                "marked": false,
            })
        );
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

    #[test]
    fn the_library_is_the_one_that_was_vendored() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/vendor/uplot");
        let sums = std::fs::read_to_string(format!("{folder}/SHA256SUMS")).unwrap();
        for file in ["LICENSE", "uPlot.iife.min.js", "uPlot.min.css"] {
            assert!(sums.contains(file), "{file} has no checksum");
        }
        let mut check = std::process::Command::new("sha256sum");
        let output = check.args(["--check", "--strict", "SHA256SUMS"]).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
