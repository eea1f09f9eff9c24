//! A long run has more seconds than a plot has room for: adjacent ones are merged, and the plot says so.

use crate::report::model::Second;

/// The number of points that a plot of this size can show.
const POINTS: usize = 450;

/// The series of a run in at most [`POINTS`] pieces.
pub struct Thinned<'a> {
    series: &'a [Second],
    size: usize,
}

impl<'a> Thinned<'a> {
    pub fn new(series: &'a [Second]) -> Self {
        Self { series, size: series.len().div_ceil(POINTS).max(1) }
    }

    /// Explains what a point stands for, if that is more than a second.
    pub fn note(&self, put_together: &str) -> Option<String> {
        (self.size > 1).then(|| format!("Each point stands for {} seconds: {put_together}.", self.size))
    }

    /// The end of each piece.
    pub fn ends(&self) -> Vec<f64> {
        self.series.chunks(self.size).filter_map(|piece| piece.last()).map(|second| second.at_seconds).collect()
    }

    /// The highest value in each piece; none if there was none.
    pub fn highest(&self, value: impl Fn(&Second) -> Option<f64>) -> Vec<Option<f64>> {
        let pieces = self.series.chunks(self.size);
        pieces.map(|piece| piece.iter().filter_map(&value).filter(|v| v.is_finite()).reduce(f64::max)).collect()
    }

    /// The mean of the values in each piece.
    pub fn mean(&self, value: impl Fn(&Second) -> Option<f64>) -> Vec<Option<f64>> {
        self.mean_of(&self.series.iter().map(value).collect::<Vec<_>>())
    }

    /// The same, for a list with a value for each second.
    pub fn mean_of(&self, values: &[Option<f64>]) -> Vec<Option<f64>> {
        let mean = |piece: &[Option<f64>]| {
            let known: Vec<f64> = piece.iter().flatten().copied().filter(|value| value.is_finite()).collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        };
        values.chunks(self.size).map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_fits_and_the_worst_second_is_kept() {
        let series: Vec<Second> = (1..=3600)
            .map(|at| Second { at_seconds: at.into(), connections: u64::from(at == 1234), ..Second::default() })
            .collect();
        let thinned = Thinned::new(&series);
        let highest = thinned.highest(|second| Some(second.connections as f64));
        assert_eq!((highest.len(), thinned.ends().len()), (450, 450));
        assert_eq!(highest.iter().flatten().sum::<f64>(), 1.0);
        assert_eq!(thinned.ends().last(), Some(&3600.0));
        assert_eq!(thinned.mean(|second| Some(second.connections as f64))[154], Some(0.125));
        assert!(thinned.note("the worst of them").unwrap().starts_with("Each point stands for 8 seconds"));
    }

    #[test]
    fn a_short_run_stays_as_it_is() {
        let series = [Second { at_seconds: 1.0, ..Second::default() }];
        let thinned = Thinned::new(&series);
        assert_eq!((thinned.ends(), thinned.note("x")), (vec![1.0], None));
        assert_eq!(thinned.highest(|_| Some(f64::NAN)), [None]);
        assert!(Thinned::new(&[]).ends().is_empty());
    }
}
