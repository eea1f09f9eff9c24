//! A run: measures dimension after dimension, and reports each point at once.

use super::edits::Edited;
use super::names::Many;
use super::{
    Dimension, Log, Measured, Plan, connections, days, edits, listeners, log, names, replays, replicas, stored,
};
use crate::baseline::BaselineError;
use crate::local::Surroundings;

/// The outcome of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Dimensions that were measured.
    pub measured: Vec<Measured>,
    /// Dimensions that could not be measured, and why.
    pub failed: Vec<(Dimension, BaselineError)>,
}

/// Measures the dimensions of the plan. `log` gets each point, `failed` each dimension that could not be measured.
pub async fn run(at: &Surroundings, plan: &Plan, log: Log<'_>, failed: impl Fn(Dimension, &BaselineError)) -> Outcome {
    let mut outcome = Outcome { measured: Vec::new(), failed: Vec::new() };
    let all = <Dimension as clap::ValueEnum>::value_variants().iter().copied();
    for dimension in all.filter(|dimension| plan.wants(*dimension)) {
        match Box::pin(measure(at, plan, dimension, log)).await {
            Ok(measured) => outcome.measured.extend(measured),
            Err(error) => {
                failed(dimension, &error);
                outcome.failed.push((dimension, error));
            }
        }
    }
    outcome
}

async fn measure(
    at: &Surroundings,
    plan: &Plan,
    dimension: Dimension,
    log: Log<'_>,
) -> Result<Vec<Measured>, BaselineError> {
    Ok(match dimension {
        Dimension::Stored => vec![stored::measure(at, plan, log).await?],
        Dimension::Replicas => {
            vec![listeners::measure(at, plan, log).await?, replicas::measure(at, plan, log).await?]
        }
        Dimension::Connections => vec![connections::measure(at, plan, log).await?],
        Dimension::Names => {
            vec![names::measure(at, plan, Many::Apps, log).await?, names::measure(at, plan, Many::Tables, log).await?]
        }
        Dimension::Log => vec![log::measure(at, plan, log).await?],
        Dimension::Edits => {
            let mut measured = Vec::new();
            for edited in [Edited::SINGLY, Edited::BY_HALVES, Edited::ALL_BUT_ONE] {
                measured.push(edits::measure(at, plan, edited, log).await?);
            }
            measured
        }
        Dimension::Days => vec![days::measure(at, plan, log).await?],
        Dimension::Replays => vec![replays::measure(at, plan, log).await?],
    })
}
