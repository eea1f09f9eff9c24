//! The cost of fan-out to three replicas for pushes: the same three replicas with and without publishing.

use std::time::Duration;

use super::Row;
use super::pushes::{Pusher, pushers, refuse_failures};
use crate::baseline::{BaselineError, Plan};
use crate::engine::Endpoint;
use crate::engine::closed::closed_loop;
use crate::local::{Replica, Surroundings, stop_all};
use crate::report::model::{Limit, Measurement, Ratio, Unit};

/// Publishes nothing; everything is left to the reconcilers. See PUBLISH_QUEUE in the server's settings.
pub const SILENT: [(&str, &str); 1] = [("PUBLISH_QUEUE", "0")];
pub const REPLICAS: usize = 3;
/// Turns of each side per round.
const TURNS: u32 = 5;
/// Uncounted time at the beginning of a turn.
const TURN_WARM_UP: Duration = Duration::from_millis(200);

/// Starts replicas with their own database, and clients that push to all of them.
pub async fn start(
    at: &Surroundings,
    plan: &Plan,
    database: &str,
    settings: &[(&str, &str)],
) -> Result<(Vec<Replica>, Vec<Pusher>), BaselineError> {
    at.fresh_database(database).await?;
    let replicas = at.replicas(REPLICAS, database, settings).await?;
    let bases: Vec<String> = replicas.iter().map(|replica| replica.base().to_owned()).collect();
    let pushers = pushers(at, plan, &Endpoint::resolve_all(&bases).await?, 1)?;
    Ok((replicas, pushers))
}

struct Side {
    replicas: Vec<Replica>,
    workers: Vec<Pusher>,
    pushed: u64,
    seconds: f64,
}

impl Side {
    async fn start(
        at: &Surroundings,
        plan: &Plan,
        database: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self, BaselineError> {
        let (replicas, workers) = start(at, plan, database, settings).await?;
        Ok(Self { replicas, workers, pushed: 0, seconds: 0.0 })
    }

    /// Pushes for a turn; returns pushes per second.
    async fn push(&mut self, length: Duration, busy: &mut f64) -> Result<f64, BaselineError> {
        let workers = std::mem::take(&mut self.workers);
        let (measured, back) = closed_loop(workers, 1, TURN_WARM_UP, length).await?;
        self.workers = back;
        refuse_failures(&measured)?;
        self.pushed += measured.done;
        self.seconds += measured.elapsed.as_secs_f64();
        *busy = busy.max(measured.busiest);
        Ok(measured.per_second())
    }

    fn per_second(&self) -> f64 {
        self.pushed as f64 / self.seconds
    }
}

/// Measures both sides in many short turns, each going first equally often: the difference is smaller than the
/// variation of a disk from one second to the next. Both sets of replicas run all the time, in databases of their own:
/// notifications do not leave a database.
pub async fn measure(at: &Surroundings, plan: &Plan) -> Result<Row, BaselineError> {
    let mut on = Side::start(at, plan, "bench_fanout", &[]).await?;
    let mut off = Side::start(at, plan, "bench_silent", &SILENT).await?;
    let (mut busy, mut rounds) = (0.0_f64, Vec::new());
    let turn = plan.length / TURNS;
    // One-time costs are not counted.
    for side in [&mut on, &mut off] {
        side.push(turn, &mut busy).await?;
        (side.pushed, side.seconds) = (0, 0.0);
    }
    for round in 0..plan.rounds {
        let (mut with, mut without) = (0.0, 0.0);
        for number in 0..TURNS as usize {
            if (round + number) % 2 == 0 {
                without += off.push(turn, &mut busy).await?;
                with += on.push(turn, &mut busy).await?;
            } else {
                with += on.push(turn, &mut busy).await?;
                without += off.push(turn, &mut busy).await?;
            }
        }
        rounds.push(format!("{:.0} of {:.0}", with / f64::from(TURNS), without / f64::from(TURNS)));
    }
    let (with, without) = (on.per_second(), off.per_second());
    stop_all(on.replicas).await?;
    stop_all(off.replicas).await?;
    let ratio = Ratio::new(
        "pushes with fan-out, 3 replicas",
        Measurement::new("published to all", Unit::PerSecond, with),
        Measurement::new("published to nobody", Unit::PerSecond, without),
        Some(Limit::AtLeast(0.9)),
    );
    Ok(Row { ratio, note: rounds.join("; "), generator_busy: busy })
}
