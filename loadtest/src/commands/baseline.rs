//! `mana-load baseline`: a table of our numbers and their physical limits.

use std::process::ExitCode;

use clap::Args;
use mana_load::baseline::{Plan, report, rows, run, table};
use mana_load::report::model::Database;

use super::measuring::{MeasuringArgs, Stopped};

/// Compares the server with what this machine's PostgreSQL does without it, as ratios.
///
/// It starts its own replicas and must run with the environment of `mana-dev with-services`; `make bench` does all of
/// that.
///
/// Exit status: 0 if every row was measured, 1 if one missed its goal and --strict is given, 2 if one could not be
/// measured.
#[derive(Args)]
pub struct BaselineArgs {
    #[command(flatten)]
    measuring: MeasuringArgs,
    /// Shorter, with more noise, and with a tenth of the stored changes.
    #[arg(long, env = "QUICK", value_parser = clap::builder::FalseyValueParser::new())]
    quick: bool,
    /// Only these rows.
    #[arg(long, value_delimiter = ',', env = "ROWS")]
    rows: Vec<rows::Name>,
    /// How often both sides of a ratio are measured.
    #[arg(long)]
    rounds: Option<usize>,
    /// Connections that push, and clients of pgbench.
    #[arg(long)]
    connections: Option<usize>,
}

impl BaselineArgs {
    fn plan(&self) -> Plan {
        let mut plan = if self.quick { Plan::quick() } else { Plan::thorough() };
        plan.rows.clone_from(&self.rows);
        plan.rounds = self.rounds.unwrap_or(plan.rounds).max(1);
        plan.connections = self.connections.unwrap_or(plan.connections).max(1);
        plan
    }
}

/// Measures, prints and writes the results.
pub async fn measure(args: BaselineArgs) -> Result<ExitCode, Stopped> {
    let plan = args.plan();
    let at = args.measuring.surroundings()?;
    let (started_at, database) = (report::now(), report::database(&at).await?);
    eprintln!("PostgreSQL {}: {}", database.version, settings(&database));
    let outcome = run(&at, &plan, |row| eprint!("{}", table::detail(row))).await;
    println!("\n{}", table::render(&outcome.rows));
    let missed = outcome.rows.iter().any(|row| row.ratio.reached == Some(false));
    let report = report::report(&plan, &outcome, database, started_at);
    args.measuring.end(&report, !outcome.failed.is_empty(), missed)
}

fn settings(database: &Database) -> String {
    let shown: Vec<String> = database.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    shown.join(", ")
}
