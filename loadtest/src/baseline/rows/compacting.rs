//! Pushes while logs are trimmed, compared with trimming off. The horizon is a second, so that there is always
//! something to trim.

use super::Row;
use super::pushes::{WARM_UP, pushers, refuse_failures};
use crate::baseline::dataset::Dataset;
use crate::baseline::fill::fill;
use crate::baseline::visits::Visitor;
use crate::baseline::{BaselineError, Plan, median};
use crate::engine::Endpoint;
use crate::engine::closed::{Measured, closed_loop};
use crate::local::Surroundings;
use crate::report::model::{Limit, Measurement, Ratio, Unit};

/// Number of logs waiting to be trimmed, with a thousand changes each: more than are trimmed during the measurement.
const OLD_LOGS: u64 = 200;

/// A side: its database, and the setting in which they differ.
struct Side {
    database: &'static str,
    horizon: &'static str,
    turns: Vec<Measured>,
}

/// Measures both sides alternately, back and forth.
pub async fn measure(at: &Surroundings, plan: &Plan) -> Result<Vec<Row>, BaselineError> {
    let side = |database, horizon| Side { database, horizon, turns: Vec::new() };
    let mut sides = [side("bench_compacting", "1000"), side("bench_not_compacting", "0")];
    for side in &sides {
        prepare(at, side.database).await?;
    }
    for _ in 0..plan.rounds * 2 {
        for side in &mut sides {
            side.turns.push(turn(at, plan, side).await?);
        }
        sides.reverse();
    }
    sides.sort_by_key(|side| side.horizon == "0");
    let [compacting, not] = &sides;
    refuse_idleness(at, compacting).await?;
    let middle = |side: &Side, value: fn(&Measured) -> f64| median(side.turns.iter().map(value).collect());
    let p99 = |measured: &Measured| measured.latency.quantile_seconds(0.99).unwrap_or(f64::NAN);
    let busiest = sides.iter().flat_map(|side| &side.turns).map(|turn| turn.busiest).fold(0.0, f64::max);
    let row = |name: &str, unit: Unit, value: fn(&Measured) -> f64, goal: Limit| {
        let ratio = Ratio::new(
            name,
            Measurement::new("logs are trimmed", unit, middle(compacting, value)),
            Measurement::new("trimming off", unit, middle(not, value)),
            Some(goal),
        );
        let shown = |side: &Side| {
            let each = side.turns.iter().map(|turn| match unit {
                Unit::Seconds => format!("{:.2} ms", value(turn) * 1e3),
                _ => format!("{:.0}", value(turn)),
            });
            each.collect::<Vec<_>>().join(", ")
        };
        let note = format!("{}; off: {}", shown(compacting), shown(not));
        Row { ratio, note, generator_busy: busiest }
    };
    Ok(vec![
        row("pushes while logs are trimmed", Unit::PerSecond, Measured::per_second, Limit::AtLeast(0.9)),
        row("p99 of pushes while logs are trimmed", Unit::Seconds, p99, Limit::AtMost(1.2)),
    ])
}

/// Creates logs of a thousand changes that were never trimmed.
async fn prepare(at: &Surroundings, database: &str) -> Result<(), BaselineError> {
    at.fresh_database(database).await?;
    let dataset = Dataset::of_many_users(OLD_LOGS * 1000);
    let replica = at.replica(&format!("replica-{database}"), database, &[("COMPACT_AFTER_MS", "0")]).await?;
    let mut visitor = Visitor::new(at, replica.base(), &dataset.places).await?;
    visitor.warm_up().await?;
    fill(&at.connect(database).await?, dataset.filled).await?;
    replica.stop().await?;
    Ok(())
}

async fn turn(at: &Surroundings, plan: &Plan, side: &Side) -> Result<Measured, BaselineError> {
    let settings = [("COMPACT_AFTER_MS", side.horizon)];
    let replica = at.replica(&format!("replica-{}", side.database), side.database, &settings).await?;
    let endpoints = Endpoint::resolve_all(&[replica.base().to_owned()]).await?;
    let mut workers = pushers(at, plan, &endpoints, 1)?;
    for worker in &mut workers {
        worker.introduce(&endpoints).await?;
    }
    let (measured, _) = closed_loop(workers, 1, WARM_UP, plan.length).await?;
    refuse_failures(&measured)?;
    replica.stop().await?;
    Ok(measured)
}

/// Fails if nothing was trimmed: then the comparison is meaningless.
async fn refuse_idleness(at: &Surroundings, side: &Side) -> Result<(), BaselineError> {
    let counts = "select count(*) filter (where trimmed_to > 'epoch'), count(*) filter (where untrimmed_since < now() - interval '2 s')
                  from sync_heads";
    let counted = at.connect(side.database).await?.query_one(counts, &[]).await;
    let failed = |source| BaselineError::Database { action: "count the trimmed logs", source };
    let row = counted.map_err(failed)?;
    let (trimmed, waiting): (i64, i64) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    if trimmed == 0 || waiting == 0 {
        return Err(BaselineError::Nothing { what: format!("{trimmed} logs were trimmed and {waiting} are waiting") });
    }
    Ok(())
}
