//! The command line.

use clap::{Parser, Subcommand};
use mana_sync::config::{Config, DatabaseConfig, LogFormat};
use mana_sync::telemetry::{self, Telemetry};
use mana_sync::{app, dev, store};
use std::process::ExitCode;
use std::time::Duration;

/// How long the last traces may take, at the very end; and how long if it is to end at once.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
const FORCED_FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// The sync backend of local-first apps: a cluster of identical replicas over one PostgreSQL.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: Option<Config>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a replica. This is what happens if no command is given.
    Serve(Box<Config>),
    /// Bring the database's schema up to date.
    Migrate(DatabaseConfig),
    /// Run a whole cluster on this machine: PostgreSQL, a token issuer, a credits service and replicas.
    Dev(dev::DevArgs),
    /// Print a token of the development issuer.
    Token(dev::TokenArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Serve(config)) => serve(*config),
        Some(Command::Migrate(database)) => migrate(&database),
        Some(Command::Dev(args)) => dev(args),
        Some(Command::Token(args)) => dev::token(&args).map(|()| ExitCode::SUCCESS).map_err(Into::into),
        None => match cli.config {
            Some(config) => serve(config),
            None => unreachable!("without a subcommand clap asks for the settings"),
        },
    };
    result.unwrap_or_else(|error| {
        report(&*error);
        ExitCode::FAILURE
    })
}

type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

fn serve(config: Config) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let telemetry = {
        let _on = runtime.enter();
        Telemetry::start(&config)?
    };
    let served = runtime.block_on(app::serve(config, &telemetry));
    telemetry.flush(if matches!(served, Err(app::RunError::Forced)) { FORCED_FLUSH_TIMEOUT } else { FLUSH_TIMEOUT });
    // What a forced stop leaves running must not hold the process.
    runtime.shutdown_background();
    served?;
    Ok(ExitCode::SUCCESS)
}

fn migrate(database: &DatabaseConfig) -> Outcome {
    telemetry::logs::init(LogFormat::Text);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(store::schema::migrate(database.direct_url().expose()))?;
    Ok(ExitCode::SUCCESS)
}

fn dev(args: dev::DevArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(dev::run(args))?)
}

/// Says what went wrong, with all its causes.
fn report(error: &dyn std::error::Error) {
    eprintln!("mana-sync: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
}
