//! `mana-load yardstick`: the table of numbers beside their physical limits.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use mana_load::engine::usage::raise_file_limit;
use mana_load::local::Surroundings;
use mana_load::report::files::{self, FileError};
use mana_load::report::model::Database;
use mana_load::yardstick::{Plan, YardstickError, report, rows, run, table};

/// Measures the server beside what this machine's PostgreSQL does without it, as ratios.
///
/// It starts replicas of its own and must run where `mana-sync dev with-services` has put their surroundings into the
/// environment; `make bench` does all of that.
///
/// Exit status: 0 where every row was measured, 1 where one missed its goal and --strict is given, 2 where one could
/// not be measured.
#[derive(Args)]
pub struct YardstickArgs {
    /// The server's program.
    #[arg(long, env = "MANA_SYNC_EXE", default_value = "target/release/mana-sync")]
    exe: PathBuf,
    /// Where logs and pgbench's scripts go.
    #[arg(long, default_value = ".dev/bench", value_name = "FOLDER")]
    folder: PathBuf,
    /// Shorter, with more noise, and with a tenth of the stored changes.
    #[arg(long, env = "QUICK", value_parser = clap::builder::FalseyValueParser::new())]
    quick: bool,
    /// Only these rows.
    #[arg(long, value_delimiter = ',', env = "ROWS")]
    rows: Vec<rows::Name>,
    /// Times that both sides of a ratio are measured.
    #[arg(long)]
    rounds: Option<usize>,
    /// Connections that push, and clients of pgbench.
    #[arg(long)]
    connections: Option<usize>,
    /// Where the result goes as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A goal that is missed is a failure.
    #[arg(long)]
    strict: bool,
}

impl YardstickArgs {
    fn plan(&self) -> Plan {
        let mut plan = if self.quick { Plan::quick() } else { Plan::thorough() };
        plan.rows.clone_from(&self.rows);
        plan.rounds = self.rounds.unwrap_or(plan.rounds).max(1);
        plan.connections = self.connections.unwrap_or(plan.connections).max(1);
        plan
    }
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error(transparent)]
    Yardstick(#[from] YardstickError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Measures, prints and writes.
pub async fn measure(args: YardstickArgs) -> Result<ExitCode, Stopped> {
    raise_file_limit();
    let plan = args.plan();
    let at = Surroundings::from_env(args.exe, args.folder).map_err(YardstickError::from)?;
    let (started_at, database) = (report::now(), report::database(&at).await?);
    eprintln!("PostgreSQL {}: {}", database.version, settings(&database));
    let outcome = run(&at, &plan, |row| eprint!("{}", table::detail(row))).await;
    println!("\n{}", table::render(&outcome.rows));
    if let Some(path) = &args.json {
        let page = files::write(&report::report(&plan, &outcome, database, started_at), path)?;
        println!("{} and {}", path.display(), page.display());
    }
    let missed = outcome.rows.iter().any(|row| row.ratio.reached == Some(false));
    Ok(match (outcome.failed.is_empty(), missed && args.strict) {
        (false, _) => ExitCode::from(2),
        (true, true) => ExitCode::from(1),
        (true, false) => ExitCode::SUCCESS,
    })
}

fn settings(database: &Database) -> String {
    let shown: Vec<String> = database.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    shown.join(", ")
}
