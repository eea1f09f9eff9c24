//! Latency of a push and a small pull by the number of apps with one table each, and of tables in one app. One user and
//! the same number of stored changes throughout, distributed over the names.

use super::limits::{NAMES_P50, NAMES_P99};
use super::warmed::{Limits, lines, note, start, visit};
use super::{Log, Measured, Plan};
use crate::baseline::BaselineError;
use crate::baseline::dataset::Dataset;
use crate::baseline::visits::Place;
use crate::local::Surroundings;
use crate::report::model::Growth;
use crate::report::units::number;

/// Stored changes of all names together: a hundred of each with a thousand names.
const CHANGES: u64 = 100_000;

/// The names whose number grows.
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

    fn dataset(self, size: u64) -> Dataset {
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
        Dataset { database: format!("bench_{}_{size}", self.name()), places, filled, kept: false }
    }
}

pub async fn measure(at: &Surroundings, plan: &Plan, many: Many, log: Log<'_>) -> Result<Measured, BaselineError> {
    let datasets: Vec<_> = plan.names.iter().map(|&size| (size, many.dataset(size))).collect();
    let sides = start(at, &datasets, many.name(), log).await?;
    let latencies = visit(sides, &plan.names, plan.visits(), many.name(), log).await?;
    let dealt = match many {
        Many::Apps => "distributed over the apps, which have one table each",
        Many::Tables => "in one log, distributed over its tables",
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
            let (apps, tables) = (Many::Apps.dataset(size), Many::Tables.dataset(size));
            // Every log has the changes pushed to its places, and the filled ones.
            assert_eq!(size * (apps.filled + 1), CHANGES);
            assert_eq!(size + tables.filled, CHANGES);
            assert_eq!((apps.places.len() as u64, tables.places.len() as u64), (size, size));
        }
    }
}
