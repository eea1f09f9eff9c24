//! Latency of a push and a pull with much stored, compared with little.

use super::Row;
use crate::baseline::dataset::{Dataset, Latencies, Side, interleaved};
use crate::baseline::{BaselineError, Plan};
use crate::local::Surroundings;
use crate::report::LatencyHistogram;
use crate::report::model::{Limit, Measurement, Ratio, Unit};

const TURNS: usize = 20;
/// Requests per turn.
const REQUESTS: usize = 200;

/// Measures both amounts alternately, on one connection each, so that nothing waits for anything else.
pub async fn measure(at: &Surroundings, plan: &Plan) -> Result<Vec<Row>, BaselineError> {
    let mut sides = Vec::new();
    for changes in [plan.stored.0, plan.stored.1] {
        sides.push(Side::start(at, &Dataset::of_many_users(changes)).await?);
    }
    let mut all = Vec::new();
    for side in interleaved(sides, TURNS, REQUESTS).await? {
        all.push(side.stop().await?);
    }
    let row = |name: &str, of: fn(&Latencies) -> &LatencyHistogram| {
        let (few, many) = (of(&all[0]), of(&all[1]));
        let p50 = |of: &LatencyHistogram| of.quantile_seconds(0.5).unwrap_or(0.0);
        let p99 = |of: &LatencyHistogram| of.quantile_seconds(0.99).unwrap_or(0.0) * 1e3;
        let ratio = Ratio::new(
            format!("{name} latency with {} changes stored, p50", thousands(plan.stored.1)),
            Measurement::new("many stored", Unit::Seconds, p50(many)),
            Measurement::new(format!("{} stored", thousands(plan.stored.0)), Unit::Seconds, p50(few)),
            Some(Limit::AtMost(1.2)),
        );
        let note =
            format!("p99 {:.2} ms of {:.2} ms; one request at a time, each of another user", p99(many), p99(few));
        Row { ratio, note, generator_busy: 0.0 }
    };
    Ok(vec![row("push", |side| &side.pushes), row("pull", |side| &side.pulls)])
}

fn thousands(count: u64) -> String {
    match count {
        count if count >= 1_000_000 => format!("{} million", count / 1_000_000),
        count => format!("{},000", count / 1000),
    }
}
