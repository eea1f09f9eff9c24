//! The growth of cost with size: measurements at several sizes, and the ratio of the last to the first.

use serde::{Deserialize, Serialize};

use super::judged::{Limit, Unit};

/// A dimension of growth, and the measurements along it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Growth {
    /// A short name: `stored`.
    pub name: String,
    /// The unit of the sizes: `stored changes`.
    pub size: String,
    /// A description of the measurement, for people.
    pub note: String,
    /// The sizes, ascending.
    pub sizes: Vec<f64>,
    /// The measurements.
    pub lines: Vec<GrowthLine>,
}

/// A measurement at each size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GrowthLine {
    /// `push p50`
    pub name: String,
    /// The unit of the values.
    pub unit: Unit,
    /// The values in the order of the sizes; null if not a number.
    pub values: Vec<Option<f64>>,
    /// The last value divided by the first; null if one is missing or the first is zero.
    pub factor: Option<f64>,
    /// The limit of the factor; or of the values, if it is absolute.
    pub limit: Option<Limit>,
    /// True if the limit is one of the values.
    pub is_absolute: bool,
    /// Null if there is no limit.
    pub reached: Option<bool>,
}

impl GrowthLine {
    /// Compares the last value with the first.
    pub fn new(name: impl Into<String>, unit: Unit, values: Vec<f64>, limit: Option<Limit>) -> Self {
        let values: Vec<Option<f64>> = values.into_iter().map(|v| Some(v).filter(|v| v.is_finite())).collect();
        let ends = values.first().copied().flatten().zip(values.last().copied().flatten());
        let factor = ends.map(|(first, last)| last / first).filter(|factor| factor.is_finite());
        let reached = limit.map(|limit| factor.is_some_and(|factor| limit.holds(factor)));
        Self { name: name.into(), unit, values, factor, limit, is_absolute: false, reached }
    }

    /// Judges each value by itself; values that are not numbers were not measured. If there are none, there is no
    /// limit.
    pub fn absolute(name: impl Into<String>, unit: Unit, values: Vec<f64>, limit: Limit) -> Self {
        let values: Vec<Option<f64>> = values.into_iter().map(|v| Some(v).filter(|v| v.is_finite())).collect();
        let is_any = values.iter().any(Option::is_some);
        let reached = is_any.then(|| values.iter().flatten().all(|value| limit.holds(*value)));
        let limit = Some(limit).filter(|_| is_any);
        Self { name: name.into(), unit, values, factor: None, limit, is_absolute: true, reached }
    }

    /// Returns the bound for the last value: the first one times the limit; or the limit itself, if it is absolute.
    pub fn bound(&self) -> Option<f64> {
        let (Limit::AtMost(limit) | Limit::AtLeast(limit)) = self.limit?;
        if self.is_absolute {
            return Some(limit);
        }
        Some(self.values.first().copied().flatten()? * limit)
    }
}

impl Growth {
    /// Returns the number of lines whose limits are reached, and of those with a limit.
    pub fn reached(growths: &[Self]) -> (usize, usize) {
        let all = || growths.iter().flat_map(|growth| &growth.lines).filter_map(|line| line.reached);
        (all().filter(|&reached| reached).count(), all().count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_is_judged_by_the_first() {
        let line = |values, limit| GrowthLine::new("push p50", Unit::Seconds, values, limit);
        let slower = line(vec![0.001, 0.009, 0.002], Some(Limit::AtMost(1.2)));
        assert_eq!((slower.factor, slower.reached, slower.bound()), (Some(2.0), Some(false), Some(0.0012)));
        assert_eq!(line(vec![0.002, 0.002], Some(Limit::AtMost(1.2))).reached, Some(true));
        assert_eq!(line(vec![100.0, 50.0], Some(Limit::AtLeast(0.6))).reached, Some(false));
        assert_eq!(line(vec![100.0, 50.0], None).reached, None);
    }

    #[test]
    fn what_is_no_number_reaches_nothing() {
        for values in [vec![], vec![0.0, 1.0], vec![0.0, 0.0], vec![1.0, f64::NAN], vec![f64::INFINITY, 1.0]] {
            let line = GrowthLine::new("x", Unit::Number, values, Some(Limit::AtMost(2.0)));
            assert_eq!((line.factor, line.reached), (None, Some(false)));
            let json = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<GrowthLine>(&json).unwrap(), line);
        }
    }

    #[test]
    fn an_absolute_limit_is_one_of_the_values_that_there_are() {
        let line = |values| GrowthLine::absolute("cores", Unit::Number, values, Limit::AtMost(1.0));
        let good = line(vec![f64::NAN, 0.9, f64::NAN]);
        assert_eq!((good.factor, good.reached, good.bound()), (None, Some(true), Some(1.0)));
        assert_eq!(line(vec![f64::NAN, 1.1]).reached, Some(false));
        let absent = line(vec![f64::NAN]);
        assert_eq!((absent.reached, absent.limit), (None, None));
    }

    #[test]
    fn limits_are_counted_where_there_are_some() {
        let of = |limit| GrowthLine::new("x", Unit::Number, vec![1.0, 2.0], limit);
        let lines = vec![of(None), of(Some(Limit::AtMost(2.0))), of(Some(Limit::AtMost(1.0)))];
        assert_eq!(Growth::reached(&[Growth { lines, ..Growth::default() }]), (1, 2));
    }
}
