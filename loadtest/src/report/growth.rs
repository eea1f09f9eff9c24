//! How cost grows with size: measurements at some sizes, and what the last is of the first.

use serde::{Deserialize, Serialize};

use super::judged::{Limit, Unit};

/// One way of becoming larger, and all that was measured along it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Growth {
    /// Short: `stored`.
    pub name: String,
    /// What the sizes count: `stored changes`.
    pub size: String,
    /// How it was measured, for people.
    pub note: String,
    /// Ascending.
    pub sizes: Vec<f64>,
    /// What was measured.
    pub lines: Vec<GrowthLine>,
}

/// One measurement at each size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GrowthLine {
    /// `push p50`
    pub name: String,
    /// What it is measured in.
    pub unit: Unit,
    /// In the order of the sizes; null: not a number.
    pub values: Vec<Option<f64>>,
    /// The last value divided by the first; null: one of them is missing, or the first is zero.
    pub factor: Option<f64>,
    /// Of the factor; or of a value, if it is absolute.
    pub limit: Option<Limit>,
    /// Whether the limit is one of a value.
    pub is_absolute: bool,
    /// Null: there is no limit.
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

    /// Judges each of the values by itself; those that are no numbers were not measured. Without any there is no limit.
    pub fn absolute(name: impl Into<String>, unit: Unit, values: Vec<f64>, limit: Limit) -> Self {
        let values: Vec<Option<f64>> = values.into_iter().map(|v| Some(v).filter(|v| v.is_finite())).collect();
        let is_any = values.iter().any(Option::is_some);
        let reached = is_any.then(|| values.iter().flatten().all(|value| limit.holds(*value)));
        let limit = Some(limit).filter(|_| is_any);
        Self { name: name.into(), unit, values, factor: None, limit, is_absolute: true, reached }
    }

    /// The value that the last one is measured by: the first one, times the limit; or the limit itself, if it is absolute.
    pub fn bound(&self) -> Option<f64> {
        let (Limit::AtMost(limit) | Limit::AtLeast(limit)) = self.limit?;
        if self.is_absolute {
            return Some(limit);
        }
        Some(self.values.first().copied().flatten()? * limit)
    }
}

impl Growth {
    /// The lines whose limits are reached, and those that have one.
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
