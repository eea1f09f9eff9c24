//! The rows as the JSON report of a run, with the settings that the numbers depend on.

use std::collections::BTreeMap;

use serde_json::json;

use super::run::Outcome;
use super::{BaselineError, Plan};
use crate::engine::usage::BUSY;
use crate::local::Surroundings;
use crate::report::Report;
use crate::report::model::{Build, Check, Database, Generator, Machine, SCHEMA_VERSION, Settings};

/// Settings that commits, caches and checkpoints depend on; both sides of every ratio share the server.
const SETTINGS: [&str; 12] = [
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "commit_delay",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
    "jit",
    "max_connections",
    "track_commit_timestamp",
];

/// Reads PostgreSQL's version and settings.
pub async fn database(at: &Surroundings) -> Result<Database, BaselineError> {
    let failed = |source| BaselineError::Database { action: "report its settings", source };
    let client = at.connect("postgres").await?;
    let mut settings = BTreeMap::new();
    for name in SETTINGS {
        let value: String = client.query_one("select current_setting($1)", &[&name]).await.map_err(failed)?.get(0);
        settings.insert(name.to_owned(), value);
    }
    let version: String =
        client.query_one("select current_setting('server_version')", &[]).await.map_err(failed)?.get(0);
    Ok(Database { version, settings })
}

/// Creates the report of a run.
pub fn report(plan: &Plan, outcome: &Outcome, database: Database, started_at: String) -> Report {
    let busiest = outcome.rows.iter().map(|row| row.generator_busy).fold(0.0, f64::max);
    let notes = outcome.rows.iter().map(|row| json!({"row": row.ratio.name, "note": row.note}));
    let failed = outcome.failed.iter().map(|(name, error)| Check {
        name: format!("{name:?} could be measured"),
        passed: false,
        detail: error.to_string(),
    });
    let scenario = json!({
        "rounds": plan.rounds,
        "length_seconds": plan.length.as_secs_f64(),
        "connections": plan.connections,
        "users": plan.users,
        "idle": plan.idle,
        "hydrated": plan.hydrated,
        "stored": [plan.stored.0, plan.stored.1],
        "notes": notes.collect::<Vec<_>>(),
    });
    Report {
        name: "baseline".to_owned(),
        description: "The server compared with the same PostgreSQL without it, measured alternately.".to_owned(),
        checks: failed.collect(),
        ratios: outcome.rows.iter().map(|row| row.ratio.clone()).collect(),
        ..outline(scenario, Some(busiest), database, started_at)
    }
}

/// The parts of a report common to all measurements on this machine. `busiest` is the load of the generator's busiest
/// thread, as a fraction of its time, if that was measured.
pub fn outline(scenario: serde_json::Value, busiest: Option<f64>, database: Database, started_at: String) -> Report {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned();
    let busy = |share: f64| format!("its thread was busy {:.0} % of the time in the busiest round", share * 100.0);
    Report {
        schema_version: SCHEMA_VERSION,
        started_at,
        ended_at: now(),
        tool: Build { name: "mana-load".to_owned(), version, profile },
        machine: Machine::here(),
        database: Some(database),
        settings: Settings { targets: Vec::new(), scenario },
        generator: Generator {
            threads: 1,
            cpu_p90_share: busiest.unwrap_or(0.0),
            was_the_limit: busiest.map(|share| share >= BUSY),
            reason: busiest.map_or("it waited for one answer at a time".to_owned(), busy),
            ..Generator::default()
        },
        ..Report::default()
    }
}

/// The time in RFC 3339, UTC.
pub fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
