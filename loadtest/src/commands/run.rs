//! `mana-load run`: runs a scenario, with its verdict as exit status.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use mana_load::baseline::report::{database, now};
use mana_load::engine::usage::raise_file_limit;
use mana_load::local::{LocalError, Surroundings, stop_all};
use mana_load::report::Report;
use mana_load::report::files::{self, FileError};
use mana_load::report::model::Counts;
use mana_load::report::units::{show, show_limit};
use mana_load::scenario::population::Tokens;
use mana_load::scenario::rollout::{Local, Rollout};
use mana_load::scenario::{RunError, RunOptions, Scenario, ScenarioError, run};
use mana_load::token::{TokenError, TokenMint};
use tokio::sync::Mutex;

const DATABASE: &str = "load_scenario";

/// Runs a scenario against existing replicas (--targets), or against its own (--replicas).
///
/// At the end it verifies that nothing was missed and that all devices agree, and writes a JSON report and an HTML
/// page.
///
/// Exit status: 0 if every check and threshold passed, 1 if one did not, 2 if the run could not be finished.
#[derive(Args)]
pub struct RunArgs {
    /// The scenario file.
    file: PathBuf,
    /// Base URLs of the replicas or of their balancer, separated by commas.
    #[arg(long, env = "MANA_LOAD_TARGETS", value_delimiter = ',', conflicts_with = "replicas")]
    targets: Vec<String>,
    /// The number of replicas to start; several numbers mean one run after the other. Needs the environment of
    /// `mana-dev with-services`.
    #[arg(long, value_delimiter = ',', value_name = "N")]
    replicas: Vec<usize>,
    /// The issuer's private key, an Ed25519 JWK file; it signs the users' tokens.
    #[arg(long, env = "MANA_LOAD_KEY", value_name = "JWKFILE")]
    key: Option<PathBuf>,
    /// Tokens instead of a key, one per line, each of another user.
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    tokens: Option<PathBuf>,
    /// Command that replaces the replicas, for scenarios with a rollout; run by sh, done when it ends.
    #[arg(long, value_name = "COMMAND")]
    rollout_command: Option<String>,
    /// The server's program, for --replicas.
    #[arg(long, env = "MANA_SYNC_EXE", default_value = "target/release/mana-sync")]
    exe: PathBuf,
    /// The folder for reports and logs.
    #[arg(long, default_value = ".dev/load", value_name = "FOLDER")]
    folder: PathBuf,
    /// Make every phase this many times as long.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    time: f64,
    /// Make every rate this many times as high.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    rate: f64,
    /// Show no progress.
    #[arg(long, short)]
    quiet: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && number <= 1e6 => Ok(number),
        _ => Err("must be a number above 0 and up to a million".to_owned()),
    }
}

/// The reasons why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot read PostgreSQL's version and settings")]
    Database(#[from] mana_load::baseline::BaselineError),
    #[error("cannot read the tokens in {}", path.display())]
    Tokens {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("name the issuer's key with --key, or a file of tokens with --tokens")]
    NoTokens,
    #[error("name replicas with --targets, or let some be started with --replicas")]
    NoTargets,
}

/// Reads the scenario first: it determines the number of threads.
pub fn scenario(args: &RunArgs) -> Result<Scenario, Stopped> {
    let mut scenario = Scenario::read(&args.file)?;
    scenario.scale(args.time, args.rate);
    Ok(scenario)
}

/// Runs it once for each number of replicas.
pub async fn execute(args: RunArgs, scenario: Scenario) -> Result<ExitCode, Stopped> {
    raise_file_limit();
    let mut passed = true;
    if args.replicas.is_empty() {
        if args.targets.is_empty() {
            return Err(Stopped::NoTargets);
        }
        let rollout = args.rollout_command.clone().map_or(Rollout::Unknown, Rollout::Command);
        passed = against(&args, &scenario, args.targets.clone(), rollout, "").await?.passed();
    }
    for &count in &args.replicas {
        passed &= locally(&args, &scenario, count).await?.passed();
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn locally(args: &RunArgs, scenario: &Scenario, count: usize) -> Result<Report, Stopped> {
    let at = Surroundings::from_env(args.exe.clone(), args.folder.join("logs"))?;
    at.fresh_database(DATABASE).await?;
    let replicas = at.replicas(count.max(1), DATABASE, &[]).await?;
    let targets = replicas.iter().map(|replica| replica.base().to_owned()).collect();
    let local = Arc::new(Local { at, database: DATABASE.to_owned(), replicas: Mutex::new(replicas) });
    let suffix = if args.replicas.len() > 1 { format!("-{count}") } else { String::new() };
    let report = against(args, scenario, targets, Rollout::Local(local.clone()), &suffix).await;
    stop_all(std::mem::take(&mut *local.replicas.lock().await)).await?;
    report
}

async fn against(
    args: &RunArgs,
    scenario: &Scenario,
    targets: Vec<String>,
    rollout: Rollout,
    suffix: &str,
) -> Result<Report, Stopped> {
    let local = match &rollout {
        Rollout::Local(local) => Some(local.clone()),
        _ => None,
    };
    let options = RunOptions { scenario: scenario.clone(), targets, tokens: tokens(args)?, rollout, live: !args.quiet };
    let started_at = now();
    let mut report = run(options).await?;
    report.started_at = started_at;
    report.ended_at = now();
    if let Some(local) = local {
        report.database = Some(database(&local.at).await?);
    }
    let path = args.folder.join(format!("{}{suffix}.json", scenario.name));
    let page = files::write(&report, &path)?;
    print!("{}", verdict(&report));
    println!("{} and {}", path.display(), page.display());
    Ok(report)
}

fn tokens(args: &RunArgs) -> Result<Tokens, Stopped> {
    if let Some(path) = &args.tokens {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| Stopped::Tokens { path: path.clone(), source })?;
        return Ok(Tokens::Given(text.split_whitespace().map(str::to_owned).collect()));
    }
    let key = args.key.as_ref().ok_or(Stopped::NoTokens)?;
    Ok(Tokens::Minted(TokenMint::from_jwk_file(key)?))
}

/// The verdict in a few lines; the rest is on the page.
fn verdict(report: &Report) -> String {
    let mut text = format!("\n{}: {}\n", report.name, if report.passed() { "passed" } else { "FAILED" });
    let mark = |passed| if passed { "ok    " } else { "FAILED" };
    let ms = |seconds: Option<f64>| seconds.map_or("—".to_owned(), |seconds| format!("{:.2} ms", seconds * 1e3));
    let seen = |counts: &Counts| counts.done + counts.failed() > 0;
    for operation in report.operations.iter().filter(|operation| seen(&operation.counts)) {
        let rate = operation.done_per_second().unwrap_or(0.0);
        let (p50, p99) = (ms(operation.latency.p50_seconds), ms(operation.latency.p99_seconds));
        let failed = operation.counts.failed();
        text += &format!("  {:<10} {rate:>9.1}/s  p50 {p50:>10}  p99 {p99:>10}  {failed} failed\n", operation.name);
    }
    for threshold in &report.thresholds {
        let measured = threshold.measured.map_or("nothing".to_owned(), |value| show(threshold.unit, value));
        let limit = show_limit(threshold.unit, threshold.limit);
        text += &format!("  {} {}: {measured}, {limit}\n", mark(threshold.passed), threshold.name);
    }
    for check in &report.checks {
        text += &format!("  {} {}: {}\n", mark(check.passed), check.name, check.detail);
    }
    text + &format!("  {}: {}\n", limit(report), report.generator.reason)
}

fn limit(report: &Report) -> &'static str {
    match report.generator.was_the_limit {
        Some(true) => "The generator was the limit",
        Some(false) => "The generator was not the limit",
        None => "Whether the generator was the limit",
    }
}
