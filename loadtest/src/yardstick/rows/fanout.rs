//! What it costs pushes that three replicas hear of them: the same three with and without publishing.

use super::Row;
use super::pushes::{Pusher, pushers, refuse_failures};
use crate::engine::Endpoint;
use crate::engine::closed::closed_loop;
use crate::local::{Replica, Surroundings, stop_all};
use crate::report::model::{Limit, Measurement, Ratio, Unit};
use crate::yardstick::{Plan, YardstickError, median};

use super::pushes::WARM_UP;

/// Left to the reconcilers, nothing is published. See PUBLISH_QUEUE in the server's settings.
const SILENT: [(&str, &str); 1] = [("PUBLISH_QUEUE", "0")];
const REPLICAS: usize = 3;

struct Side {
    replicas: Vec<Replica>,
    workers: Vec<Pusher>,
    rates: Vec<f64>,
}

impl Side {
    async fn start(
        at: &Surroundings,
        plan: &Plan,
        database: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self, YardstickError> {
        at.fresh_database(database).await?;
        let replicas = at.replicas(REPLICAS, database, settings).await?;
        let bases: Vec<String> = replicas.iter().map(|replica| replica.base().to_owned()).collect();
        let workers = pushers(at, plan, &Endpoint::resolve_all(&bases).await?, 1)?;
        Ok(Self { replicas, workers, rates: Vec::new() })
    }

    /// Pushes for a while; how busy the generator was.
    async fn push(&mut self, plan: &Plan) -> Result<f64, YardstickError> {
        let workers = std::mem::take(&mut self.workers);
        let (measured, back) = closed_loop(workers, 1, WARM_UP, plan.length).await?;
        self.workers = back;
        refuse_failures(&measured)?;
        self.rates.push(measured.per_second());
        Ok(measured.busiest)
    }
}

/// Measures both sides by turns. Both sets of replicas stand all the time, in databases of their own: notifications
/// do not leave a database.
pub async fn measure(at: &Surroundings, plan: &Plan) -> Result<Row, YardstickError> {
    let mut on = Side::start(at, plan, "bench_fanout", &[]).await?;
    let mut off = Side::start(at, plan, "bench_silent", &SILENT).await?;
    let mut busy = 0.0_f64;
    for _ in 0..plan.rounds {
        busy = busy.max(off.push(plan).await?).max(on.push(plan).await?);
    }
    stop_all(on.replicas).await?;
    stop_all(off.replicas).await?;
    let rounds: Vec<String> = on.rates.iter().zip(&off.rates).map(|(on, off)| format!("{on:.0} of {off:.0}")).collect();
    let ratio = Ratio::new(
        "pushes with fan-out, 3 replicas",
        Measurement::new("published to all", Unit::PerSecond, median(on.rates)),
        Measurement::new("published to nobody", Unit::PerSecond, median(off.rates)),
        Some(Limit::AtLeast(0.9)),
    );
    Ok(Row { ratio, note: rounds.join("; "), generator_busy: busy })
}
