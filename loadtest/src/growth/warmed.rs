//! The common part of stored, names and log: datasets measured in turn, and four lines of latency.

use super::{Log, Visits};
use crate::baseline::BaselineError;
use crate::baseline::dataset::{Dataset, Latencies, Side, interleaved};
use crate::local::Surroundings;
use crate::report::LatencyHistogram;
use crate::report::model::{GrowthLine, Limit, Unit};
use crate::report::units::{NONE, number, seconds};

/// Limits on the growth of latencies: of their median, and of the slowest of a hundred.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub p50: Limit,
    pub p99: Limit,
}

/// Fills a dataset for each size, unless that was done before, and starts a replica for each.
pub async fn start(
    at: &Surroundings,
    datasets: &[(u64, Dataset)],
    what: &str,
    log: Log<'_>,
) -> Result<Vec<Side>, BaselineError> {
    let mut sides = Vec::with_capacity(datasets.len());
    for (size, dataset) in datasets {
        let begun = std::time::Instant::now();
        sides.push(Side::start(at, dataset).await?);
        let took = seconds(begun.elapsed().as_secs_f64());
        log(&format!("{what} {}: there after {took}", number(*size as f64)));
    }
    Ok(sides)
}

/// Visits all of them alternately and stops them; returns the latencies of each.
pub async fn visit(
    sides: Vec<Side>,
    sizes: &[u64],
    visits: Visits,
    what: &str,
    log: Log<'_>,
) -> Result<Vec<Latencies>, BaselineError> {
    let mut latencies = Vec::with_capacity(sides.len());
    for (side, &size) in interleaved(sides, visits.turns, visits.requests).await?.into_iter().zip(sizes) {
        let all = side.stop().await?;
        let (pushes, pulls) = (shown(&all.pushes), shown(&all.pulls));
        log(&format!("{what} {}: push {pushes}; pull {pulls}", number(size as f64)));
        latencies.push(all);
    }
    Ok(latencies)
}

fn shown(latency: &LatencyHistogram) -> String {
    let at = |share: f64| latency.quantile_seconds(share).map_or(NONE.to_owned(), seconds);
    format!("p50 {}, p99 {}", at(0.5), at(0.99))
}

/// Returns median and 99th percentile of pushes and of pulls, at each size.
pub fn lines(all: &[Latencies], limits: Limits) -> Vec<GrowthLine> {
    let line = |name: &str, of: fn(&Latencies) -> &LatencyHistogram, share: f64, limit: Limit| {
        let values = all.iter().map(|side| of(side).quantile_seconds(share).unwrap_or(f64::NAN));
        GrowthLine::new(name, Unit::Seconds, values.collect(), Some(limit))
    };
    vec![
        line("push p50", |side| &side.pushes, 0.5, limits.p50),
        line("push p99", |side| &side.pushes, 0.99, limits.p99),
        line("pull p50", |side| &side.pulls, 0.5, limits.p50),
        line("pull p99", |side| &side.pulls, 0.99, limits.p99),
    ]
}

/// Describes the number of requests, for people.
pub fn note(visits: Visits) -> String {
    let (turns, requests) = (number(visits.turns as f64), number(visits.requests as f64));
    format!("{turns} turns of {requests} pushes of one change and {requests} pulls of fifty, one at a time")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_latency_has_a_line() {
        let side = |millis: u64| {
            let mut latencies = Latencies::default();
            latencies.pushes.record(Duration::from_millis(millis));
            latencies
        };
        let limits = Limits { p50: Limit::AtMost(1.2), p99: Limit::AtMost(2.0) };
        let lines = lines(&[side(1), side(3)], limits);
        let shown: Vec<_> = lines.iter().map(|line| (line.name.as_str(), line.factor, line.reached)).collect();
        assert_eq!(shown[0].0, "push p50");
        assert!(shown[..2].iter().all(|line| line.2 == Some(false) && line.1.is_some_and(|f| (f - 3.0).abs() < 0.01)));
        // No pull was measured.
        assert_eq!(shown[2..], [("pull p50", None, Some(false)), ("pull p99", None, Some(false))]);
    }
}
