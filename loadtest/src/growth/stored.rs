//! Latency of a push and a small pull by the stored changes of all users together, in logs of a thousand changes each.

use super::limits::{STORED_P50, STORED_P99};
use super::warmed::{Limits, lines, note, start, visit};
use super::{Log, Measured, Plan};
use crate::baseline::BaselineError;
use crate::baseline::dataset::Dataset;
use crate::local::Surroundings;
use crate::report::model::Growth;

const SIZE: &str = "stored changes";

/// The databases are those of the baseline's row of the same name, and are kept.
pub async fn measure(at: &Surroundings, plan: &Plan, log: Log<'_>) -> Result<Measured, BaselineError> {
    let datasets: Vec<_> = plan.stored.iter().map(|&size| (size, Dataset::of_many_users(size))).collect();
    let sides = start(at, &datasets, SIZE, log).await?;
    let latencies = visit(sides, &plan.stored, plan.visits(), SIZE, log).await?;
    let growth = Growth {
        name: "stored".to_owned(),
        size: SIZE.to_owned(),
        note: format!("Logs of 1,000 changes; {}, each of another user", note(plan.visits())),
        sizes: plan.stored.iter().map(|&size| size as f64).collect(),
        lines: lines(&latencies, Limits { p50: STORED_P50, p99: STORED_P99 }),
    };
    Ok(Measured { growth, generator_busy: None })
}
