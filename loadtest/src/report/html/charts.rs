//! The plots of a report, and their contents.

use super::plot::{Axis, Band, Kind, Line, Plot};
use super::thin::Thinned;
use crate::report::model::{Operation, OperationSecond, Report, Unit};

/// Percentiles have the same colours in every plot.
const PERCENTILES: [(&str, Pick); 3] = [
    ("p50", |second| second.latency.p50_seconds),
    ("p99", |second| second.latency.p99_seconds),
    ("max", |second| second.latency.max_seconds),
];

type Pick = fn(&OperationSecond) -> Option<f64>;

/// Creates the plots of one report.
pub struct Charts<'a> {
    report: &'a Report,
    timeline: Thinned<'a>,
}

impl<'a> Charts<'a> {
    pub fn new(report: &'a Report) -> Self {
        Self { report, timeline: Thinned::new(&report.series) }
    }

    /// The latency of each operation over time.
    pub fn latencies(&self) -> Vec<Plot> {
        let plot = |operation: &Operation| {
            let lines = PERCENTILES.iter().enumerate().map(|(colour, (name, pick))| {
                let ys = self.timeline.highest(|second| second.operations.get(&operation.name).and_then(pick));
                Line { name: (*name).to_owned(), colour, dashed: false, ys }
            });
            let note = self.timeline.note("the worst of them");
            self.over_time(format!("{}: latency", operation.name), note, Unit::Seconds, true, lines.collect())
        };
        self.report.operations.iter().map(plot).collect()
    }

    /// The latency of all operations by the fraction of faster requests.
    pub fn distribution(&self) -> Plot {
        let histograms = || self.report.operations.iter().map(|operation| &operation.latency_histogram_microseconds);
        let most = histograms().map(|histogram| histogram.count()).max().unwrap_or(0).max(10) as f64;
        // Twenty points per decade of odds. The first one beyond an operation's count is its slowest request of all.
        let odds_of = |step: u32| 10_f64.powf(f64::from(step) / 20.0);
        let steps = (most.log10() * 20.0).floor() as u32 + 1;
        let lines = self.report.operations.iter().enumerate().map(|(colour, operation)| {
            let histogram = &operation.latency_histogram_microseconds;
            let count = histogram.count() as f64;
            let value = |step: u32| match odds_of(step) {
                odds if odds <= count => histogram.quantile_seconds(1.0 - 1.0 / odds),
                _ if step > 0 && odds_of(step - 1) <= count => histogram.max_seconds(),
                _ => None,
            };
            Line { name: operation.name.clone(), colour, dashed: false, ys: (0..=steps).map(value).collect() }
        });
        let xs: Vec<f64> = (0..=steps).map(odds_of).collect();
        let lines: Vec<Line> = lines.collect();
        Plot {
            title: "Latency by share of requests".to_owned(),
            note: Some(
                "Each tick to the right leaves a tenth of the slower requests; a line ends at the slowest.".to_owned(),
            ),
            x: Axis::logarithmic(Kind::Tail),
            y: Axis::logarithmic(Kind::Quantity(Unit::Seconds)),
            xs,
            lines,
            bands: Vec::new(),
            marked: false,
        }
    }

    /// The throughput of each operation: intended and actual.
    pub fn throughputs(&self) -> Vec<Plot> {
        let plot = |operation: &Operation| {
            let rate = |count: fn(&OperationSecond) -> u64| {
                self.timeline.mean(|second| {
                    let counted = second.operations.get(&operation.name).map(count);
                    counted.map(|count| count as f64 / second.length_seconds)
                })
            };
            let lines = vec![
                Line {
                    name: "intended".to_owned(),
                    colour: 3,
                    dashed: true,
                    ys: rate(|operation| operation.counts.intended),
                },
                Line { name: "done".to_owned(), colour: 0, dashed: false, ys: rate(|operation| operation.counts.done) },
            ];
            let title = format!("{}: throughput", operation.name);
            self.over_time(title, self.timeline.note("their mean"), Unit::PerSecond, false, lines)
        };
        self.report.operations.iter().map(plot).collect()
    }

    /// Errors by operation and kind; none if there were none.
    pub fn errors(&self) -> Option<Plot> {
        let mut kinds = std::collections::BTreeSet::new();
        for second in &self.report.series {
            for (name, operation) in &second.operations {
                kinds.extend(operation.counts.errors.keys().map(|kind| (name, kind)));
            }
        }
        let lines = kinds.into_iter().enumerate().map(|(colour, (name, kind))| {
            let ys = self.timeline.mean(|second| {
                let count = second.operations.get(name)?.counts.errors.get(kind).copied().unwrap_or(0);
                Some(count as f64 / second.length_seconds)
            });
            Line { name: format!("{name}: {kind}"), colour, dashed: false, ys }
        });
        let lines: Vec<Line> = lines.collect();
        let note = self.timeline.note("their mean");
        (!lines.is_empty()).then(|| self.over_time("Errors".to_owned(), note, Unit::PerSecond, false, lines))
    }

    /// Connections as the generator holds them, and as the replicas count them; none if there never were any.
    pub fn connections(&self) -> Option<Plot> {
        let held = self.timeline.highest(|second| Some(second.connections as f64));
        let mut lines = vec![Line { name: "generator".to_owned(), colour: 0, dashed: false, ys: held }];
        for (place, replica) in self.report.replicas.iter().enumerate() {
            let ys = self.timeline.highest(|second| Some(second.replicas.get(place)?.as_ref()?.connections as f64));
            lines.push(Line { name: replica.name.clone(), colour: place + 1, dashed: false, ys });
        }
        let (note, any) = (self.timeline.note("the most of them"), values(&lines).any(|value| value > 0.0));
        any.then(|| self.over_time("WebSockets and streams".to_owned(), note, Unit::Number, false, lines))
    }

    /// Processor time of the generator, each replica and the whole machine, as a fraction of one core.
    pub fn cpu(&self) -> Plot {
        let own = self.timeline.mean(|second| Some(second.generator.cpu_seconds / second.length_seconds));
        let mut lines = vec![Line { name: "generator".to_owned(), colour: 0, dashed: false, ys: own }];
        for (place, replica) in self.report.replicas.iter().enumerate() {
            let ys = self.timeline.mean_of(&cpu_shares(self.report, place));
            lines.push(Line { name: replica.name.clone(), colour: place + 1, dashed: false, ys });
        }
        let cores = self.report.machine.cpu_cores as f64;
        let machine = self.timeline.mean(|second| second.generator.machine_busy_share.map(|share| share * cores));
        if machine.iter().any(Option::is_some) {
            let name = "the generator's machine, everything".to_owned();
            lines.push(Line { name, colour: 7, dashed: true, ys: machine });
        }
        let note = self.timeline.note("their mean");
        self.over_time("Processor, share of one core".to_owned(), note, Unit::Share, false, lines)
    }

    /// Resident memory of each replica; none if no replica's metrics were read.
    pub fn memory(&self) -> Option<Plot> {
        let lines = self.report.replicas.iter().enumerate().map(|(place, replica)| {
            let ys = self.timeline.highest(|second| Some(second.replicas.get(place)?.as_ref()?.resident_bytes as f64));
            Line { name: replica.name.clone(), colour: place + 1, dashed: false, ys }
        });
        let lines: Vec<Line> = lines.collect();
        let note = self.timeline.note("the most of them");
        (!lines.is_empty()).then(|| self.over_time("Resident memory".to_owned(), note, Unit::Bytes, false, lines))
    }

    /// The lateness of the generator; none if it had no schedule.
    pub fn lateness(&self) -> Option<Plot> {
        let line = |name: &str, colour, ys| Line { name: name.to_owned(), colour, dashed: false, ys };
        let lines = vec![
            line("p99", 1, self.timeline.highest(|second| second.generator.lateness_p99_seconds)),
            line("max", 2, self.timeline.highest(|second| second.generator.lateness_max_seconds)),
        ];
        let known = values(&lines).next().is_some();
        let title = "Generator: sent after the intended time".to_owned();
        known.then(|| self.over_time(title, self.timeline.note("the worst of them"), Unit::Seconds, true, lines))
    }

    fn over_time(&self, title: String, note: Option<String>, unit: Unit, logarithmic: bool, lines: Vec<Line>) -> Plot {
        let y = Axis { unit: Kind::Quantity(unit), logarithmic };
        let xs = self.timeline.ends();
        let bands = self.report.phases.iter().map(|phase| Band {
            name: phase.name.clone(),
            from: phase.start_seconds,
            to: phase.end_seconds,
            faint: !phase.measured,
        });
        let (x, bands) = (Axis::linear(Kind::Clock), bands.collect());
        Plot { title, note, x, y, xs, lines, bands, marked: false }
    }
}

fn values(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines.iter().flat_map(|line| line.ys.iter().flatten().copied())
}

/// Returns a replica's processor time in each second, as a fraction of a core; none if it was away or has just started.
fn cpu_shares(report: &Report, place: usize) -> Vec<Option<f64>> {
    let sample = |index: usize| report.series.get(index)?.replicas.get(place)?.as_ref();
    let share = |index: usize| {
        let used = sample(index)?.since(sample(index.checked_sub(1)?)?)?;
        Some(used.cpu_seconds / report.series[index].length_seconds)
    };
    (0..report.series.len()).map(share).collect()
}
