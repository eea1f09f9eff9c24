//! The command line.

use clap::builder::Resettable;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use mana_sync::config::{Config, DatabaseConfig, LogFormat};
use mana_sync::telemetry::{self, Telemetry};
use mana_sync::{app, dev, store};
use std::process::ExitCode;
use std::time::Duration;

/// How long a replica may take to say whether it is ready.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);
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
    ///
    /// A database of the server before is taken over first: its changes are copied into our tables, and the old table
    /// stays under the name sync_changes_before.
    Migrate(MigrateArgs),
    /// Ask a replica on this machine whether it is ready; the exit status says so. For container health checks.
    Health(HealthArgs),
    /// Run a whole cluster on this machine: PostgreSQL, a token issuer, a credits service and replicas.
    Dev(dev::DevArgs),
    /// Print a token of the development issuer.
    Token(dev::TokenArgs),
}

fn main() -> ExitCode {
    let matches = without_empty_settings(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        Some(Command::Serve(config)) => serve(*config),
        Some(Command::Migrate(args)) => migrate(&args),
        Some(Command::Health(args)) => health(&args),
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

/// The command line that takes no notice of what is empty in the environment: manifests and compose files set a
/// variable to nothing where they mean that it is not set.
fn without_empty_settings(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| {
        let value = argument.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) { argument.env(Resettable::Reset) } else { argument }
    });
    command.mut_subcommands(without_empty_settings)
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

#[derive(Args)]
struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseConfig,

    /// Take over the database of the server before even though others are connected to it. What they do with
    /// sync_changes fails until it is over.
    #[arg(long)]
    while_connected: bool,

    /// Drop the table of the server before, once it has been taken over.
    #[arg(long)]
    drop_old: bool,
}

fn migrate(args: &MigrateArgs) -> Outcome {
    telemetry::logs::init(LogFormat::Text);
    let url = args.database.direct_url().expose();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if args.drop_old {
        match runtime.block_on(store::takeover::drop_old(url))? {
            true => println!("The table of the server before is dropped."),
            false => println!("There is no table of the server before."),
        }
    }
    runtime.block_on(store::takeover::run(url, args.while_connected, &mut |line| println!("{line}")))?;
    let done = runtime.block_on(store::schema::migrate(url))?;
    match done.applied {
        0 => println!("The schema is at version {}; nothing to do.", done.version),
        applied => println!("The schema is at version {}; {applied} applied.", done.version),
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Args)]
struct HealthArgs {
    /// Port that the replica listens on.
    #[arg(long, env, default_value_t = 3050)]
    port: u16,
}

fn health(args: &HealthArgs) -> Outcome {
    let url = format!("http://127.0.0.1:{}/health/ready", args.port);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ask = async {
        let http = reqwest::Client::builder().no_proxy().timeout(HEALTH_TIMEOUT).build()?;
        let answer = http.get(url).send().await?;
        let ready = answer.status().is_success();
        Ok::<_, reqwest::Error>((ready, answer.text().await?))
    };
    let (ready, text) = runtime.block_on(ask)?;
    println!("{text}");
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
