//! Judges noise: the measured time of both runs is cut into ten windows, and each is compared with its counterpart.
//!
//! If both runs were the same, the second would be higher in about half of the pairs. A change is beyond noise if the
//! pairs agree so far that this happens by chance less than once in a hundred times (Wilcoxon's signed-rank test, on
//! relative differences) *and* the totals differ by [`LEAST_CHANGE`]. Pairs, because a storm is slower than a steady
//! phase in every run; windows rather than seconds, because adjacent seconds resemble each other and would count as
//! more evidence than they are; ranks, because latencies are far from any normal distribution. Failures come in bursts,
//! and one burst matters: they are judged by their number.
//!
//! None of this can detect what differs from run to run but not within one: repeat runs. Nor are there pairs in runs
//! with different phases, which the comparison warns about.

/// Smaller changes are ignored, however certain they are.
pub const LEAST_CHANGE: f64 = 0.03;

/// The number of windows that a run is cut into.
pub const WINDOWS: usize = 10;

/// With fewer pairs, even complete agreement would not be certain enough.
const FEWEST: usize = 8;

/// Standard deviations, two-sided, for one in a hundred. (Exactly, eight pairs that agree are at 0.8 in a hundred; the
/// normal distribution puts them at 2.52.)
const SURE: f64 = 2.5;

/// The certainty of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    BeyondNoise,
    WithinNoise,
    /// There is too little data to judge.
    Unknown,
}

/// The basis for judging a value's noise.
#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    /// The value in each window; `None` if it is not known.
    Windows(Vec<Option<f64>>),
    Counts {
        failed: u64,
        tried: u64,
    },
}

/// Cuts values, in order, into up to [`WINDOWS`] equal pieces, and takes the median of each.
pub fn windows(values: impl Iterator<Item = Option<f64>>) -> Evidence {
    let values: Vec<Option<f64>> = values.collect();
    let pieces = values.len().min(WINDOWS);
    let piece = |index: usize| &values[index * values.len() / pieces..(index + 1) * values.len() / pieces];
    let medians = (0..pieces).map(|index| median(piece(index).iter().flatten().copied().collect()));
    Evidence::Windows(medians.collect())
}

/// Judges whether two runs differ by more than their own noise, in a value with these totals.
pub fn judge(totals: (f64, f64), evidence: (&Evidence, &Evidence)) -> Certainty {
    let change = totals.1 - totals.0;
    if change.abs() <= LEAST_CHANGE * totals.0.abs() {
        return Certainty::WithinNoise;
    }
    let apart = match evidence {
        (Evidence::Windows(first), Evidence::Windows(second)) if first.len() == second.len() => {
            let pairs: Vec<(f64, f64)> = first.iter().zip(second).filter_map(|(a, b)| a.zip(*b)).collect();
            if pairs.len() < FEWEST {
                return Certainty::Unknown;
            }
            pairs_apart(&pairs)
        }
        (Evidence::Counts { failed: a, tried: n }, Evidence::Counts { failed: b, tried: m }) if n.min(m) > &0 => {
            shares_apart((*a as f64, *n as f64), (*b as f64, *m as f64))
        }
        _ => return Certainty::Unknown,
    };
    // Windows must have moved in the same direction as the totals, or they measure something else.
    let same_way = (change > 0.0) == (apart > 0.0);
    if apart.abs() >= SURE && same_way { Certainty::BeyondNoise } else { Certainty::WithinNoise }
}

/// Returns how many standard deviations the second fraction is above the first, if both were drawn from the two
/// together.
fn shares_apart((failed, tried): (f64, f64), (failed_then, tried_then): (f64, f64)) -> f64 {
    let together = (failed + failed_then) / (tried + tried_then);
    let deviation = (together * (1.0 - together) * (1.0 / tried + 1.0 / tried_then)).sqrt();
    if deviation > 0.0 { (failed_then / tried_then - failed / tried) / deviation } else { 0.0 }
}

/// Returns how many standard deviations the signed ranks of the pairs' differences are above chance.
fn pairs_apart(pairs: &[(f64, f64)]) -> f64 {
    let relative = |&(a, b): &(f64, f64)| if a == b { 0.0 } else { (b - a) / (a.abs() + b.abs()) };
    let mut changes: Vec<f64> = pairs.iter().map(relative).filter(|&change| change != 0.0).collect();
    changes.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let n = changes.len() as f64;
    if n == 0.0 {
        return 0.0;
    }
    // Relative differences of measured values hardly ever tie; if they do, any order is fine.
    let higher: f64 =
        changes.iter().zip(1_u32..).filter(|(change, _)| **change > 0.0).map(|(_, rank)| f64::from(rank)).sum();
    (higher - n * (n + 1.0) / 4.0) / (n * (n + 1.0) * (2.0 * n + 1.0) / 24.0).sqrt()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (upper, lower) = (values.len() / 2, values.len().checked_sub(1)? / 2);
    Some((values[upper] + values[lower]) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run whose seconds vary around `level` by a fifth, with a storm in its last third.
    fn run(level: f64, seed: u32) -> Evidence {
        windows((0..120).map(|at| {
            let storm = if at > 80 { 5.0 } else { 1.0 };
            Some(storm * level * (1.0 + 0.2 * (f64::from(at * 7 + seed * 13) * 1.7).sin()))
        }))
    }

    fn first(evidence: &Evidence, count: usize) -> Evidence {
        let Evidence::Windows(values) = evidence else { panic!("{evidence:?}") };
        Evidence::Windows(values[..count].to_vec())
    }

    #[test]
    fn a_run_against_its_like_is_noise_and_a_slower_one_is_not() {
        let base = run(1.0, 1);
        for seed in 2..40 {
            assert_eq!(judge((1.0, 1.04), (&base, &run(1.0, seed))), Certainty::WithinNoise, "seed {seed}");
            assert_eq!(judge((1.0, 1.3), (&base, &run(1.3, seed))), Certainty::BeyondNoise, "seed {seed}");
            assert_eq!(judge((1.3, 1.0), (&run(1.3, seed), &base)), Certainty::BeyondNoise, "seed {seed}");
        }
    }

    #[test]
    fn small_short_and_contradicting_changes_are_not_told() {
        let (low, high) = (run(1.0, 1), run(2.0, 1));
        assert_eq!(judge((1.0, 1.02), (&low, &high)), Certainty::WithinNoise);
        assert_eq!(judge((1.0, 2.0), (&first(&low, 7), &first(&high, 7))), Certainty::Unknown);
        assert_eq!(judge((1.0, 2.0), (&first(&low, 8), &first(&high, 8))), Certainty::BeyondNoise);
        assert_eq!(judge((1.0, 2.0), (&first(&low, 8), &high)), Certainty::Unknown);
        assert_eq!(judge((2.0, 1.0), (&low, &high)), Certainty::WithinNoise);
        assert_eq!(judge((0.0, 0.0), (&low, &low)), Certainty::WithinNoise);
    }

    #[test]
    fn failures_count_by_their_number() {
        let counts = |failed| Evidence::Counts { failed, tried: 50_000 };
        assert_eq!(judge((0.0, 0.01), (&counts(0), &counts(500))), Certainty::BeyondNoise);
        assert_eq!(judge((0.0, 0.000_04), (&counts(0), &counts(2))), Certainty::WithinNoise);
        assert_eq!(judge((0.0, 0.0), (&counts(0), &counts(0))), Certainty::WithinNoise);
        let none = Evidence::Counts { failed: 0, tried: 0 };
        assert_eq!(judge((0.0, 0.01), (&none, &counts(500))), Certainty::Unknown);
    }

    #[test]
    fn stretches_are_medians_of_what_is_known() {
        let known = windows([Some(3.0), None, Some(1.0)].into_iter());
        assert_eq!(known, Evidence::Windows(vec![Some(3.0), None, Some(1.0)]));
        let Evidence::Windows(twenty) = windows((0..20).map(|n| Some(f64::from(n)))) else { unreachable!() };
        assert_eq!((twenty.len(), &twenty[..2]), (WINDOWS, &[Some(0.5), Some(2.5)][..]));
        assert_eq!(windows([].into_iter()), Evidence::Windows(Vec::new()));
    }
}
