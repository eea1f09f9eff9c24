//! One run: dimension after dimension, each point told as soon as it is there.

use super::names::Many;
use super::{Dimension, Measured, Plan, Told, connections, listeners, log, names, replicas, stored};
use crate::local::Surroundings;
use crate::yardstick::YardstickError;

/// What a run found.
#[derive(Debug)]
pub struct Outcome {
    pub measured: Vec<Measured>,
    /// Dimensions that could not be measured, and why.
    pub failed: Vec<(Dimension, YardstickError)>,
}

/// Measures the dimensions of the plan. `told` hears of each point, `failed` of each dimension that has none.
pub async fn run(
    at: &Surroundings,
    plan: &Plan,
    told: Told<'_>,
    failed: impl Fn(Dimension, &YardstickError),
) -> Outcome {
    let mut outcome = Outcome { measured: Vec::new(), failed: Vec::new() };
    let all = <Dimension as clap::ValueEnum>::value_variants().iter().copied();
    for dimension in all.filter(|dimension| plan.wants(*dimension)) {
        match Box::pin(measure(at, plan, dimension, told)).await {
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
    told: Told<'_>,
) -> Result<Vec<Measured>, YardstickError> {
    Ok(match dimension {
        Dimension::Stored => vec![stored::measure(at, plan, told).await?],
        Dimension::Replicas => {
            vec![listeners::measure(at, plan, told).await?, replicas::measure(at, plan, told).await?]
        }
        Dimension::Connections => vec![connections::measure(at, plan, told).await?],
        Dimension::Names => {
            vec![names::measure(at, plan, Many::Apps, told).await?, names::measure(at, plan, Many::Tables, told).await?]
        }
        Dimension::Log => vec![log::measure(at, plan, told).await?],
    })
}
