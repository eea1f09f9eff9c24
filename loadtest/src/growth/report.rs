//! The growth as the JSON report of a run, with the settings that the numbers depend on.

use serde_json::json;

use super::run::Outcome;
use super::{Measured, Plan};
use crate::baseline::report::outline;
use crate::report::Report;
use crate::report::model::{Check, Database};

/// Creates the report of a run.
pub fn report(plan: &Plan, outcome: &Outcome, database: Database, started_at: String) -> Report {
    let failed = outcome.failed.iter().map(|(dimension, error)| Check {
        name: format!("{dimension:?} could be measured"),
        passed: false,
        detail: error.to_string(),
    });
    let scenario = json!({
        "turns": plan.turns,
        "visits": plan.visits().turns,
        "requests": plan.requests,
        "length_seconds": plan.length.as_secs_f64(),
        "idle_seconds": plan.idle.as_secs_f64(),
    });
    let busiest = outcome.measured.iter().filter_map(|measured| measured.generator_busy).reduce(f64::max);
    Report {
        name: "growth".to_owned(),
        description: "How cost grows with size: the same measurements with little and with much.".to_owned(),
        checks: failed.collect(),
        growth: outcome.measured.iter().map(|Measured { growth, .. }| growth.clone()).collect(),
        ..outline(scenario, busiest, database, started_at)
    }
}
