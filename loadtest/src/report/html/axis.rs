//! Scales of a plot: where a value lies between the ends of an axis, and which values get a tick.

use crate::report::model::Unit;
use crate::report::units::{number, show};

/// How many ticks an axis has at most, about.
const TICKS: f64 = 6.0;

/// What an axis shows, which decides its ticks and their labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Seconds since the start, as minutes and seconds.
    Clock,
    /// `1 / (1 - share)`: each step to the right is a tenth of the requests that are left.
    Tail,
    Quantity(Unit),
}

/// An axis from one value to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    pub kind: Kind,
    pub logarithmic: bool,
    pub from: f64,
    pub to: f64,
}

impl Axis {
    /// From zero (or the lowest value, if that is below) to a round number above the highest.
    pub fn linear(kind: Kind, values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = bounds(values).unwrap_or((0.0, 1.0));
        let from = low.min(0.0);
        let span = if high > from { high - from } else { 1.0 };
        let axis = Self { kind, logarithmic: false, from, to: from + span };
        match kind {
            Kind::Clock => axis,
            _ => Self { to: from + (span / axis.step()).ceil() * axis.step(), ..axis },
        }
    }

    /// From a round number below the lowest positive value to one above the highest.
    pub fn logarithmic(kind: Kind, values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = bounds(values.filter(|&value| value > 0.0)).unwrap_or((0.1, 1.0));
        let (from, to) = (round_down(low), round_up(high));
        Self { kind, logarithmic: true, from, to: if to > from { to } else { from * 10.0 } }
    }

    /// For a few sizes, each of which is some times the one before: by their logarithms, with room on either side.
    pub fn sizes(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = bounds(values.filter(|&value| value > 0.0)).unwrap_or((1.0, 10.0));
        let room = (high / low).max(10.0).powf(0.06);
        Self { kind: Kind::Quantity(Unit::Number), logarithmic: true, from: low / room, to: high * room }
    }

    /// Where a value lies, 0 to 1; what is beyond an end is at that end.
    pub fn place(&self, value: f64) -> f64 {
        let at = |value: f64| if self.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        let place = (at(value) - at(self.from)) / (at(self.to) - at(self.from));
        place.clamp(0.0, 1.0)
    }

    /// Values that get a tick, and their labels.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        let values = if self.logarithmic { self.decades() } else { self.steps() };
        values.into_iter().map(|value| (value, self.label(value))).collect()
    }

    fn decades(&self) -> Vec<f64> {
        let (low, high) = (self.from.log10().floor() as i32, self.to.log10().ceil() as i32);
        let within = |value: &f64| *value >= self.from * 0.999 && *value <= self.to * 1.001;
        let all = |factors: &[f64], every: usize| -> Vec<f64> {
            let decades = (low..=high).step_by(every.max(1));
            decades.flat_map(|decade| factors.iter().map(move |f| f * 10_f64.powi(decade))).filter(within).collect()
        };
        let fine = all(&[1.0, 2.0, 5.0], 1);
        if fine.len() as f64 <= TICKS + 2.0 {
            return fine;
        }
        let decades = high.abs_diff(low) as f64;
        all(&[1.0], (decades / (TICKS + 2.0)).ceil() as usize)
    }

    /// Between ticks of a linear axis.
    fn step(&self) -> f64 {
        let rough = (self.to - self.from) / TICKS;
        let clock = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0];
        match self.kind {
            Kind::Clock => clock.into_iter().find(|&step| step >= rough).unwrap_or_else(|| round_up(rough)),
            Kind::Quantity(Unit::Bytes) if rough >= 1.0 => {
                let unit = 1024_f64.powf(rough.log2().div_euclid(10.0));
                round_up(rough / unit) * unit
            }
            Kind::Quantity(_) | Kind::Tail => round_up(rough),
        }
    }

    fn steps(&self) -> Vec<f64> {
        let step = self.step();
        let first = (self.from / step).ceil();
        let count = ((self.to - first * step) / step + 1e-9).floor();
        // The step fits the span, so there are few; anything else would be a span that no number can tell.
        (0..=(count.clamp(0.0, 20.0) as u32)).map(|n| (first + f64::from(n)) * step).collect()
    }

    /// The value as people read it on this axis.
    pub fn label(&self, value: f64) -> String {
        match self.kind {
            Kind::Clock => clock(value),
            Kind::Tail => tail(value),
            Kind::Quantity(unit) => show(unit, value),
        }
    }
}

/// `2:05`, `1:02:05`; seconds have a fraction only where a tick or a sample has one.
fn clock(seconds: f64) -> String {
    let tenths = (seconds * 10.0).round() as i64;
    let (whole, tenth) = (tenths / 10, (tenths % 10).abs());
    let fraction = if tenth == 0 || whole >= 60 { String::new() } else { format!(".{tenth}") };
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, (whole % 60).abs());
    match hours {
        0 => format!("{minutes}:{seconds:02}{fraction}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// 10 is `90 %`, 1,000 is `99.9 %`.
fn tail(odds: f64) -> String {
    let percent = 100.0 - 100.0 / odds;
    let decimals = (odds.log10().round() - 2.0).clamp(0.0, 7.0) as usize;
    match odds.log10().fract().abs() < 1e-9 {
        true => format!("{percent:.decimals$} %"),
        false => format!("{} %", number_of_share(percent)),
    }
}

/// Near 100 the distance to 100 is what tells, so it keeps its two digits.
fn number_of_share(percent: f64) -> String {
    let left = 100.0 - percent;
    let decimals = if left > 0.0 { (1.0 - left.log10().floor()).clamp(0.0, 7.0) as usize } else { 0 };
    match decimals {
        0 => number(percent),
        _ => format!("{percent:.decimals$}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.filter(|value| value.is_finite());
    finite.fold(None, |bounds, value| {
        let (low, high) = bounds.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}

/// The next of …, 1, 2, 5, 10, … that is not below.
fn round_up(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    steps.into_iter().find(|&step| step >= value * 0.999_999).unwrap_or(value)
}

fn round_down(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let steps = [5.0, 2.0, 1.0].map(|step| step * decade);
    steps.into_iter().find(|&step| step <= value * 1.000_001).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Axis) -> Vec<String> {
        axis.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round() {
        let rate = Axis::linear(Kind::Quantity(Unit::PerSecond), [3.0, 870.0].into_iter());
        assert_eq!(labels(rate), ["0/s", "200/s", "400/s", "600/s", "800/s", "1,000/s"]);
        let memory = Axis::linear(Kind::Quantity(Unit::Bytes), [21_000_000.0].into_iter());
        assert_eq!(labels(memory), ["0 B", "5 MiB", "10 MiB", "15 MiB", "20 MiB", "25 MiB"]);
        let latency = Axis::logarithmic(Kind::Quantity(Unit::Seconds), [0.0007, 0.3].into_iter());
        assert_eq!((latency.from, latency.to), (0.0005, 0.5));
        assert_eq!(labels(latency), ["1 ms", "10 ms", "100 ms"]);
        let time = Axis::linear(Kind::Clock, [0.0, 3700.0].into_iter());
        assert_eq!(labels(time), ["0:00", "15:00", "30:00", "45:00", "1:00:00"]);
        let tail = Axis::logarithmic(Kind::Tail, [1.0, 10_000.0].into_iter());
        assert_eq!(labels(tail), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }

    #[test]
    fn sizes_lie_within() {
        let axis = Axis::sizes([100.0, 1_000.0, 10_000.0].into_iter());
        let places = [100.0, 1_000.0, 10_000.0].map(|size| axis.place(size));
        assert!(places[0] > 0.02 && (places[1] - 0.5).abs() < 1e-9 && places[2] < 0.98, "{places:?}");
        for sizes in [vec![], vec![7.0], vec![0.0], vec![f64::NAN], vec![1e-300, 1e300]] {
            let axis = Axis::sizes(sizes.iter().copied());
            let mut places = sizes.iter().filter(|size| !size.is_nan()).map(|&size| axis.place(size));
            assert!(places.all(|place| (0.0..=1.0).contains(&place)) && axis.to > axis.from, "{axis:?}");
        }
    }

    #[test]
    fn nothing_one_value_and_enormous_ones_have_an_axis_too() {
        for values in [vec![], vec![0.0], vec![5.0], vec![1e300], vec![-4.0, 1e-300], vec![f64::NAN, f64::INFINITY]] {
            for axis in [
                Axis::linear(Kind::Clock, values.iter().copied()),
                Axis::linear(Kind::Quantity(Unit::Bytes), values.iter().copied()),
                Axis::logarithmic(Kind::Quantity(Unit::Seconds), values.iter().copied()),
            ] {
                let ticks = axis.ticks();
                assert!(!ticks.is_empty() && ticks.len() < 30, "{values:?} {axis:?}");
                let places = ticks.iter().map(|(value, _)| axis.place(*value));
                assert!(places.into_iter().all(|place| (0.0..=1.0).contains(&place)), "{values:?} {axis:?}");
            }
        }
    }

    #[test]
    fn shares_near_the_end_keep_what_tells_them_apart() {
        let axis = Axis::logarithmic(Kind::Tail, [1.0, 1e6].into_iter());
        assert_eq!(
            [2.0, 10.0, 50.0, 1_000.0, 4_000.0].map(|odds| axis.label(odds)),
            ["50 %", "90 %", "98 %", "99.9 %", "99.975 %"]
        );
    }
}
