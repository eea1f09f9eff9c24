//! What it costs pushes that three replicas hear of them: the same three with and without publishing.

use std::time::Duration;

use super::Row;
use super::pushes::{Pusher, pushers, refuse_failures};
use crate::baseline::{BaselineError, Plan};
use crate::engine::Endpoint;
use crate::engine::closed::closed_loop;
use crate::local::{Replica, Surroundings, stop_all};
use crate::report::model::{Limit, Measurement, Ratio, Unit};

/// Left to the reconcilers, nothing is published. See PUBLISH_QUEUE in the server's settings.
pub const SILENT: [(&str, &str); 1] = [("PUBLISH_QUEUE", "0")];
pub const REPLICAS: usize = 3;
/// Turns of each side in a round.
const TURNS: u32 = 5;
/// What a turn begins with and does not count.
const TURN_WARM_UP: Duration = Duration::from_millis(200);

/// Replicas in a database of their own, and who pushes to all of them.
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

    /// Pushes for a turn; how many in a second.
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

/// Measures both sides by many short turns, each first as often as the other: this row looks for a difference that is
/// smaller than what a disk does from one second to the next. Both sets of replicas stand all the time, in databases of
/// their own: notifications do not leave a database.
pub async fn measure(at: &Surroundings, plan: &Plan) -> Result<Row, BaselineError> {
    let mut on = Side::start(at, plan, "bench_fanout", &[]).await?;
    let mut off = Side::start(at, plan, "bench_silent", &SILENT).await?;
    let (mut busy, mut rounds) = (0.0_f64, Vec::new());
    let turn = plan.length / TURNS;
    // What each needs once is not to count.
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
