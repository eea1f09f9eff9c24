//! Tests that pushes are as fast during an event as before and after it, on a machine that does other work too.
//!
//! A pause of the machine makes an overall 99th percentile worthless. So the pushes of a period are cut into runs of
//! [`RUN`], and the median of the runs' slowest pushes is taken: half of all runs of 69 have a push above the 99th
//! percentile, so this median is an estimate of it, and a disturbance of a single run does not matter. It is compared
//! with the same value for the periods before and after, in which the machine was as busy.

use std::time::Duration;

/// Number of pushes in a run: 0.99 to this power is one half.
const RUN: usize = 69;
/// Minimum number of runs.
const FEWEST: usize = 3;
/// Minimum number of pushes.
pub const ENOUGH: usize = RUN * FEWEST;

/// The durations of the pushes in a period, in the order in which they were answered.
#[derive(Debug)]
pub struct PushTimes(pub Vec<Duration>);

/// How much slower pushes may be while something happens: by this factor, plus this much.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub times: f64,
    pub more: Duration,
}

impl PushTimes {
    /// The 99th percentile, as above; `None` if there are fewer than [`ENOUGH`] pushes.
    pub fn p99(&self) -> Option<Duration> {
        let runs = self.0.chunks_exact(RUN);
        let mut slowest: Vec<Duration> = runs.filter_map(|run| run.iter().max().copied()).collect();
        slowest.sort();
        (slowest.len() >= FEWEST).then(|| slowest[slowest.len() / 2])
    }

    /// A one-line summary.
    pub fn summary(&self) -> String {
        let mut times = self.0.clone();
        times.sort();
        let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or_default();
        let p99 = self.p99().map_or_else(|| "too few runs".to_owned(), |p99| format!("{p99:.1?}"));
        let (count, median, overall) = (times.len(), at(0.5), at(0.99));
        format!("{count} pushes: median {median:.1?}, p99 by runs {p99}, of all {overall:.1?}")
    }
}

/// Returns what is wrong with the pushes answered meanwhile, if anything.
pub fn slower(before: &PushTimes, meanwhile: &PushTimes, afterwards: &PushTimes, bound: Bound) -> Option<String> {
    let (Some(before), Some(meanwhile), Some(afterwards)) = (before.p99(), meanwhile.p99(), afterwards.p99()) else {
        return Some(format!("too few pushes to compare: {before:?}, {meanwhile:?}, {afterwards:?}"));
    };
    // By then, more processes share the same processors, and the machine may be busier with other work.
    let usual = before.max(afterwards);
    let most = usual.mul_f64(bound.times) + bound.more;
    (meanwhile > most).then(|| format!("99 of 100 pushes took {usual:.1?} at most, and {meanwhile:.1?} meanwhile"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Bound = Bound { times: 1.5, more: Duration::from_millis(10) };

    /// This many runs in which each push takes `millis` milliseconds, and one in fifty takes `slow`.
    fn usual(runs: usize, millis: u64, slow: u64) -> PushTimes {
        let time = |number: usize| Duration::from_millis(if number % 50 == 7 { slow } else { millis });
        PushTimes((0..runs * RUN).map(time).collect())
    }

    #[test]
    fn pushes_that_are_as_fast_are_no_matter() {
        assert_eq!(slower(&usual(9, 20, 90), &usual(4, 25, 100), &usual(4, 30, 95), BOUND), None);
        assert_eq!(usual(9, 20, 90).p99(), Some(Duration::from_millis(90)));
    }

    #[test]
    fn a_pause_of_the_machine_is_no_matter() {
        let mut meanwhile = usual(5, 20, 90);
        meanwhile.0[RUN..RUN * 2].fill(Duration::from_secs(3));
        assert_eq!(slower(&usual(9, 20, 90), &meanwhile, &usual(5, 20, 90), BOUND), None);
    }

    #[test]
    fn slower_pushes_are_told_although_most_are_as_fast() {
        let told = slower(&usual(9, 20, 90), &usual(4, 20, 160), &usual(4, 20, 90), BOUND);
        assert!(told.is_some_and(|told| told.contains("90.0ms") && told.contains("160.0ms")));
    }

    #[test]
    fn too_few_pushes_prove_nothing() {
        assert!(slower(&usual(9, 20, 90), &usual(2, 20, 90), &usual(9, 20, 90), BOUND).is_some());
    }
}
