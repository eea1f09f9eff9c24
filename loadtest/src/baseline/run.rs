//! A run: measures row after row, and prints each at once.

use super::rows::idle::Transport;
use super::rows::{Name, Row, beside, compacting, fanout, hydrate, idle, paced, pushes, stored, wakeup, woken};
use super::{BaselineError, Plan, table};
use crate::local::Surroundings;

/// The outcome of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Rows that were measured.
    pub rows: Vec<Row>,
    /// Rows that could not be measured, and why.
    pub failed: Vec<(Name, BaselineError)>,
}

/// Measures the rows of the plan. `log` gets each as soon as it is measured.
pub async fn run(at: &Surroundings, plan: &Plan, log: impl Fn(&Row)) -> Outcome {
    let mut outcome = Outcome { rows: Vec::new(), failed: Vec::new() };
    for name in <Name as clap::ValueEnum>::value_variants().iter().copied().filter(|name| plan.wants(*name)) {
        match Box::pin(measure(at, plan, name)).await {
            Ok(rows) => {
                rows.iter().for_each(&log);
                outcome.rows.extend(rows);
            }
            Err(error) => {
                eprintln!("{}", table::failure(name, &error));
                outcome.failed.push((name, error));
            }
        }
    }
    outcome
}

async fn measure(at: &Surroundings, plan: &Plan, name: Name) -> Result<Vec<Row>, BaselineError> {
    Ok(match name {
        Name::Pushes => {
            let many = Plan { connections: pushes::MANY, ..plan.clone() };
            let (one, ten) = (pushes::measure(at, plan, 1).await?, pushes::measure(at, plan, 10).await?);
            vec![one, pushes::measure(at, &many, 1).await?, ten]
        }
        Name::Beside => beside::measure(at, plan).await?,
        Name::Compacting => compacting::measure(at, plan).await?,
        Name::Fanout => vec![fanout::measure(at, plan).await?],
        Name::Paced => vec![paced::measure(at, plan).await?],
        Name::Wakeup => vec![wakeup::measure(at, plan).await?],
        Name::Woken => woken::measure(at, plan).await?,
        Name::Idle => {
            let mut rows = Vec::new();
            for transport in [Transport::WebSocket, Transport::Stream] {
                rows.push(idle::measure(at, plan, transport).await?);
            }
            rows
        }
        Name::Hydrate => vec![hydrate::measure(at, plan).await?],
        Name::Stored => stored::measure(at, plan).await?,
    })
}
