//! Maximum rate of pushes by the number of replicas that share one PostgreSQL and one machine; and their cost for the
//! replicas.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use super::limits::{REPLICAS_CPU, REPLICAS_RATE};
use super::{Log, Measured, Plan};
use crate::baseline::rows::pushes::{WARM_UP, pushers, refuse_failures};
use crate::baseline::{self, BaselineError, median};
use crate::engine::Endpoint;
use crate::engine::closed::closed_loop;
use crate::local::{Replica, Surroundings, stop_all};
use crate::report::model::{Growth, GrowthLine, Unit};
use crate::report::units::{number, seconds};

const DATABASE: &str = "bench_replicas";

/// One turn of one size.
struct Turn {
    per_second: f64,
    /// Processor seconds of all replicas per push.
    cpu_each: f64,
    busy: f64,
}

pub async fn measure(at: &Surroundings, plan: &Plan, log: Log<'_>) -> Result<Measured, BaselineError> {
    // The baseline's users, and its number of connections for each replica: replicas are added because there are more
    // clients.
    let clients = |replicas: usize| {
        let one = baseline::Plan::thorough();
        baseline::Plan { connections: one.connections * replicas, ..one }
    };
    let mut turns: Vec<Vec<Turn>> = plan.replicas.iter().map(|_| Vec::new()).collect();
    let mut order: Vec<usize> = (0..turns.len()).collect();
    for _ in 0..plan.turns {
        for &place in &order {
            let count = plan.replicas[place];
            let turn = turn(at, &clients(count), count, plan.length).await?;
            let (rate, cpu) = (number(turn.per_second), seconds(turn.cpu_each));
            log(&format!("replicas {count}: {rate} pushes/s, {cpu} of the replicas' processor time each"));
            turns[place].push(turn);
        }
        // Back and forth, so that other work of the machine slows all of them.
        order.reverse();
    }
    let of = |value: fn(&Turn) -> f64| turns.iter().map(move |turns| median(turns.iter().map(value).collect()));
    let growth = Growth {
        name: "replicas".to_owned(),
        size: "replicas".to_owned(),
        note: format!(
            "Replicas, PostgreSQL and generator on one machine; {} connections for each replica, of {} users in all, push \
             one change at a time, each to a random replica; the median of {} turns of {}",
            clients(1).connections,
            number(clients(1).users as f64),
            plan.turns,
            seconds(plan.length.as_secs_f64())
        ),
        sizes: plan.replicas.iter().map(|&count| count as f64).collect(),
        lines: vec![
            GrowthLine::new("pushes", Unit::PerSecond, of(|turn| turn.per_second).collect(), Some(REPLICAS_RATE)),
            GrowthLine::new(
                "processor time of all replicas for a push",
                Unit::Seconds,
                of(|turn| turn.cpu_each).collect(),
                Some(REPLICAS_CPU),
            ),
        ],
    };
    let busy = turns.iter().flatten().map(|turn| turn.busy).reduce(f64::max);
    Ok(Measured { growth, generator_busy: busy })
}

/// Uses a fresh database, so that no turn finds another's data.
async fn turn(
    at: &Surroundings,
    clients: &baseline::Plan,
    count: usize,
    length: Duration,
) -> Result<Turn, BaselineError> {
    at.fresh_database(DATABASE).await?;
    let replicas = at.replicas(count, DATABASE, &[]).await?;
    let bases: Vec<String> = replicas.iter().map(|replica| replica.base().to_owned()).collect();
    let endpoints = Endpoint::resolve_all(&bases).await?;
    let mut workers = pushers(at, clients, &endpoints, 1)?;
    try_join_all(workers.iter_mut().map(|worker| worker.introduce(&endpoints))).await?;
    let (begun, cpu) = (Instant::now(), cpu(&replicas)?);
    let (measured, _) = closed_loop(workers, 1, WARM_UP, length).await?;
    refuse_failures(&measured)?;
    let used = (self::cpu(&replicas)? - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    stop_all(replicas).await?;
    let per_second = measured.per_second();
    Ok(Turn { per_second, cpu_each: used / per_second, busy: measured.busiest })
}

fn cpu(replicas: &[Replica]) -> Result<Duration, BaselineError> {
    let all = replicas.iter().map(Replica::cpu).sum::<Option<Duration>>();
    all.ok_or_else(|| BaselineError::Nothing { what: "a replica is gone".to_owned() })
}
