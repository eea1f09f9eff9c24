//! Latency of a push and of a small pull by the number of apps with one table each, and of tables in one app. One user
//! and the same number of stored changes throughout, dealt to the names.

use super::limits::{NAMES_P50, NAMES_P99};
use super::visited::{Limits, lines, note, start, visit};
use super::{Measured, Plan, Told};
use crate::local::Surroundings;
use crate::report::model::Growth;
use crate::report::units::number;
use crate::yardstick::YardstickError;
use crate::yardstick::stock::Stock;
use crate::yardstick::visits::Place;

/// Stored changes of all names together: a hundred of each where there are a thousand.
const CHANGES: u64 = 100_000;

/// What there is more and more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Many {
    Apps,
    Tables,
}

impl Many {
    fn name(self) -> &'static str {
        match self {
            Self::Apps => "apps",
            Self::Tables => "tables",
        }
    }

    fn stock(self, size: u64) -> Stock {
        let place = |number: u64| {
            let (app, table) = match self {
                Self::Apps => (format!("app-{number}"), "packages".to_owned()),
                Self::Tables => ("bench".to_owned(), format!("table-{number}")),
            };
            Place { user: "bench-names".to_owned(), app, table }
        };
        let filled = match self {
            Self::Apps => CHANGES / size - 1,
            Self::Tables => CHANGES - size,
        };
        let places = (0..size).map(place).collect();
        Stock { database: format!("bench_{}_{size}", self.name()), places, filled, kept: false }
    }
}

pub async fn measure(at: &Surroundings, plan: &Plan, many: Many, told: Told<'_>) -> Result<Measured, YardstickError> {
    let stocks: Vec<_> = plan.names.iter().map(|&size| (size, many.stock(size))).collect();
    let sides = start(at, &stocks, many.name(), told).await?;
    let latencies = visit(sides, &plan.names, plan.visits(), many.name(), told).await?;
    let dealt = match many {
        Many::Apps => "dealt to the apps, which have one table each",
        Many::Tables => "in one log, dealt to its tables",
    };
    let changes = number(CHANGES as f64);
    let growth = Growth {
        name: "names".to_owned(),
        size: many.name().to_owned(),
        note: format!("One user; {changes} stored changes {dealt}; {}, each of a random one", note(plan.visits())),
        sizes: plan.names.iter().map(|&size| size as f64).collect(),
        lines: lines(&latencies, Limits { p50: NAMES_P50, p99: NAMES_P99 }),
    };
    Ok(Measured { growth, generator_busy: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_stored_under_many_names_as_under_one() {
        let plan = Plan::thorough();
        for size in plan.names {
            let (apps, tables) = (Many::Apps.stock(size), Many::Tables.stock(size));
            // Every log has what was pushed to its places, and what was filled.
            assert_eq!(size * (apps.filled + 1), CHANGES);
            assert_eq!(size + tables.filled, CHANGES);
            assert_eq!((apps.places.len() as u64, tables.places.len() as u64), (size, size));
        }
    }
}
