//! `mana-load growth`: how cost grows with size.

use std::process::ExitCode;

use clap::Args;
use mana_load::baseline::{BaselineError, report as surroundings};
use mana_load::growth::{Dimension, Plan, report, run, table};

use super::measuring::{MeasuringArgs, Stopped};

/// Measures how cost grows with stored data, replicas, connections, names, the length of a log, and edits over time.
///
/// It starts its own replicas and must run with the environment of `mana-dev with-services`; `make growth` does all of
/// that.
///
/// Exit status: 0 if every dimension was measured, 1 if one grew beyond its limit and --strict is given, 2 if one could
/// not be measured.
#[derive(Args)]
pub struct GrowthArgs {
    #[command(flatten)]
    measuring: MeasuringArgs,
    /// Shorter, with more noise, and with fewer points: most of the largest are left out.
    #[arg(long, env = "QUICK", value_parser = clap::builder::FalseyValueParser::new())]
    quick: bool,
    /// Only these dimensions.
    #[arg(long, value_delimiter = ',', env = "ONLY")]
    only: Vec<Dimension>,
    /// How often each point is measured, alternately; five times as often when requests are sent one at a time.
    #[arg(long)]
    turns: Option<usize>,
}

impl GrowthArgs {
    fn plan(&self) -> Plan {
        let mut plan = if self.quick { Plan::quick() } else { Plan::thorough() };
        plan.only.clone_from(&self.only);
        plan.turns = self.turns.unwrap_or(plan.turns).max(1);
        plan
    }
}

/// Measures, prints and writes the results.
pub async fn measure(args: GrowthArgs) -> Result<ExitCode, Stopped> {
    let plan = args.plan();
    let at = args.measuring.surroundings()?;
    let (started_at, database) = (surroundings::now(), surroundings::database(&at).await?);
    let failed = |dimension, error: &BaselineError| eprintln!("{}", table::failure(dimension, error));
    let outcome = run(&at, &plan, &|line| eprintln!("{line}"), failed).await;
    let growths = || outcome.measured.iter().map(|measured| &measured.growth);
    println!("\n{}", table::render(growths()));
    let missed = growths().flat_map(|growth| &growth.lines).any(|line| line.reached == Some(false));
    let report = report::report(&plan, &outcome, database, started_at);
    args.measuring.end(&report, !outcome.failed.is_empty(), missed)
}
