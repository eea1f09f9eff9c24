//! The command line of the load generator.

mod commands;

use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use commands::{baseline, growth, report, run, stop};
use mana_load::replay::{ReplayError, ReplayOptions};
use mana_load::token::TokenMint;
use tokio::runtime::Builder;

/// Drives a mana-sync cluster as real devices do, and checks that it keeps its promises.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Replay(ReplayArgs),
    Baseline(baseline::BaselineArgs),
    Growth(growth::GrowthArgs),
    Run(run::RunArgs),
    Compare(report::CompareArgs),
    Page(report::PageArgs),
    Merge(report::MergeArgs),
}

/// Replays edit histories through a cluster and compares all devices.
///
/// Every clientId of a history is a device, all of them run at once, and each request goes to a random target. In the
/// end every device, a late reader by pull, one by push and one that followed a stream must hold the same records, and
/// the same as the independent fold of the stored rows.
///
/// Exit status: 0 if all agree, 1 if any differs, 2 if the replay could not be finished.
#[derive(Args)]
struct ReplayArgs {
    /// Histories: .jsonl or .jsonl.gz, one object per line with appId, clientId and changes.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Base URLs of the replicas, separated by commas; each request goes to a random one.
    #[arg(long, env = "MANA_LOAD_TARGETS", value_delimiter = ',', default_value = "http://127.0.0.1:3050")]
    targets: Vec<String>,
    /// The issuer's private key, an Ed25519 JWK file; it signs the tokens of the replay's users.
    #[arg(long, env = "MANA_LOAD_KEY", value_name = "JWKFILE")]
    key: PathBuf,
    /// PostgreSQL with sync_changes, for comparison with the stored rows; without it only devices are compared.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// Seed for the random choice of replicas, batches, lost answers and pulls.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Replay each file this many times at once, each as another user.
    #[arg(long, default_value_t = 1, value_name = "N")]
    users_per_file: usize,
    /// Maximum number of lines that a device pushes at once, as after a while offline; 1 makes each line a push.
    #[arg(long, default_value_t = 8, value_name = "LINES")]
    batch: usize,
    /// The fraction of pushes that are sent twice, as after a lost answer.
    #[arg(long, default_value_t = 0.02, value_parser = share, value_name = "SHARE")]
    lost_answers: f64,
    /// The fraction of pushes after which the device also pulls.
    #[arg(long, default_value_t = 0.05, value_parser = share, value_name = "SHARE")]
    pulls: f64,
    /// The tokens' iss, if the servers require one.
    #[arg(long)]
    issuer: Option<String>,
    /// The tokens' aud, if the servers require one.
    #[arg(long)]
    audience: Option<String>,
    /// Show no progress.
    #[arg(long, short)]
    quiet: bool,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}

impl ReplayArgs {
    fn options(self) -> Result<ReplayOptions, ReplayError> {
        let mut mint = TokenMint::from_jwk_file(&self.key)?;
        if let Some(issuer) = self.issuer {
            mint = mint.with_issuer(issuer);
        }
        if let Some(audience) = self.audience {
            mint = mint.with_audience(audience);
        }
        Ok(ReplayOptions {
            database_url: self.database_url,
            seed: self.seed,
            users_per_file: self.users_per_file,
            batch: self.batch,
            lost_answers: self.lost_answers,
            pulls: self.pulls,
            progress: !self.quiet,
            ..ReplayOptions::new(self.files, self.targets, mint)
        })
    }
}

fn main() -> ExitCode {
    // Several TLS backends may be linked in; one must be selected before the first connection.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Cli::parse().command {
        Command::Replay(args) => on_threads(None, replay(args)),
        Command::Baseline(args) => on_threads(None, answer(baseline::measure(args))),
        Command::Growth(args) => on_threads(None, answer(growth::measure(args))),
        Command::Run(args) => match run::scenario(&args) {
            Ok(scenario) => on_threads(Some(scenario.generator.threads), answer(run::execute(args, scenario))),
            Err(error) => failed(&error),
        },
        Command::Compare(args) => report::compare(&args),
        Command::Page(args) => report::page(&args),
        Command::Merge(args) => report::merge(&args),
    }
}

/// Runs the work on this many threads, or as many as there are processors. When told to stop, it drops the work, which
/// ends the processes it started.
fn on_threads(threads: Option<usize>, work: impl Future<Output = ExitCode>) -> ExitCode {
    let mut builder = match threads {
        Some(1) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if let Some(threads) = threads {
        builder.worker_threads(threads.max(1));
    }
    match builder.enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(stop::unless_stopped(work));
            // A thread that still generates load must not hold up the process.
            runtime.shutdown_background();
            code
        }
        Err(error) => failed(&error),
    }
}

async fn answer<E: Error>(work: impl Future<Output = Result<ExitCode, E>>) -> ExitCode {
    work.await.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &dyn Error) -> ExitCode {
    eprintln!("{}", chain(error));
    ExitCode::from(2)
}

async fn replay(args: ReplayArgs) -> ExitCode {
    match run_replay(args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => failed(&error),
    }
}

async fn run_replay(args: ReplayArgs) -> Result<bool, ReplayError> {
    let report = Box::pin(mana_load::replay::run(args.options()?)).await?;
    print!("{report}");
    if report.is_good() {
        println!("\nEveryone holds the same records ({:.1} s).", report.duration.as_secs_f64());
    }
    Ok(report.is_good())
}

/// Formats an error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(format!("error: {error}"), |text, cause| format!("{text}: {cause}"))
}
