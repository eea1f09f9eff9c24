//! The command line.

#![warn(clippy::disallowed_methods)]

mod cli;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use cli::serve::ServeError;
use mana_sync::clock::Clock;
use mana_sync::commands::{self, CommandError};
use mana_sync::config::{self, Config, DatabaseConfig, Secret};
use mana_sync::output::{Output, complain};
use mana_sync::telemetry::{self, Telemetry};
use mana_sync::{admin, db, store};
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

/// Time limits for flushing the last traces, on a normal and on a forced stop.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
const FORCED_FLUSH_TIMEOUT: Duration = Duration::from_millis(200);
/// Returns memory to the operating system after a storm of connections; the C library's allocator keeps it.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit status for an invalid command line.
const USAGE_STATUS: u8 = 2;

/// The sync backend for local-first apps: a cluster of identical replicas on one PostgreSQL database.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a replica. This is the default command.
    Serve(Box<Config>),
    /// Migrate the database schema to this version.
    ///
    /// A database of the previous server is taken over first: its changes are copied into the new tables, and the old
    /// table is kept as sync_changes_before.
    Migrate(MigrateArgs),
    /// Compact logs now: trim whatever lost to later writes.
    Compact(commands::CompactArgs),
    /// Distribute the logs over buckets: one schema for each group of users. No replica may be running.
    Distribute(commands::DistributeArgs),
    /// Explain the fields of a record: which write set each, which writes it beat, and which came too late.
    Why(commands::WhyArgs),
    /// Show how much each user stores.
    Usage(commands::UsageArgs),
    /// Export everything stored for a user, as one JSON object per line.
    Export(commands::ExportArgs),
    /// Erase everything stored for a user.
    Erase(commands::EraseArgs),
    /// Check whether a replica on this machine is ready, for container health checks; the result is the exit status.
    Health(commands::HealthArgs),
    /// Inspect and control a cluster through the admin port of any replica.
    Admin(Box<admin::client::AdminArgs>),
}

fn main() -> ExitCode {
    if let Err(error) = cli::failpoints::choose() {
        report(&error);
        return ExitCode::FAILURE;
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    let (cli, config) = match read(&words) {
        Ok(read) => read,
        Err(error) => return refuse(&error),
    };
    let result = match (cli.command, config) {
        (Some(Command::Serve(config)), _) => serve(*config),
        (Some(Command::Migrate(args)), _) => migrate(&args),
        (Some(Command::Compact(args)), _) => run(commands::compact(&args)),
        (Some(Command::Distribute(args)), _) => run(commands::distribute(&args)),
        (Some(Command::Why(args)), _) => run(commands::why(&args)),
        (Some(Command::Usage(args)), _) => run(commands::usage(&args)),
        (Some(Command::Export(args)), _) => run(commands::export(&args)),
        (Some(Command::Erase(args)), _) => run(commands::erase(&args)),
        (Some(Command::Health(args)), _) => health(&args),
        (Some(Command::Admin(args)), _) => ask_admin(&args),
        (None, Some(config)) => serve(*config),
        (None, None) => Err(UsageError::NoCommand.into()),
    };
    result.unwrap_or_else(|error| {
        report(&*error);
        ExitCode::FAILURE
    })
}

/// Parses the command line: a command with its arguments, or a replica's settings without a command.
fn read(words: &[OsString]) -> Result<(Cli, Option<Box<Config>>), UsageError> {
    // Settings are required only to run a replica: an invalid PORT must not stop `mana-sync migrate`.
    let serves = words.get(1).is_none_or(|word| word.as_encoded_bytes().starts_with(b"-") || word == "help");
    let command = if serves { with_settings(Cli::command()) } else { Cli::command() };
    let mut unreadable = None;
    let matches = without_empty_settings(command, &mut unreadable).try_get_matches_from(words);
    let matches = match (matches, unreadable) {
        // clap's error for a setting that is not text does not name the setting.
        (Err(error), Some(setting)) if error.kind() == ErrorKind::InvalidUtf8 => {
            return Err(UsageError::NoText(setting));
        }
        (matches, _) => matches?,
    };
    let cli = Cli::from_arg_matches(&matches)?;
    let config = match (&cli.command, serves) {
        (None, true) => Some(Box::new(Config::from_arg_matches(&matches)?)),
        _ => None,
    };
    Ok((cli, config))
}

/// Adds the settings of a replica to the command line. They are required only if there is no command.
fn with_settings(command: clap::Command) -> clap::Command {
    let about = command.get_about().cloned();
    let command = Config::augment_args(command).subcommand_negates_reqs(true);
    match about {
        Some(about) => command.about(about),
        None => command,
    }
}

/// An invalid command line.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error(transparent)]
    Clap(#[from] clap::Error),
    #[error("invalid value for {0}: must be UTF-8 text")]
    NoText(String),
    #[error("no command given; see mana-sync --help")]
    NoCommand,
}

/// Reports an invalid command line without any of its values, or prints the requested help or version.
fn refuse(error: &UsageError) -> ExitCode {
    match error {
        UsageError::Clap(error) => match config::explain(error) {
            Some(message) => complain(format_args!("error: {message}")),
            None => error.exit(),
        },
        other => complain(format_args!("error: {other}")),
    }
    ExitCode::from(USAGE_STATUS)
}

/// Ignores environment variables that are empty: manifests and compose files use an empty variable for one that is not
/// set. Records a setting that is not valid UTF-8.
#[expect(clippy::disallowed_methods, reason = "the environment belongs to the command line")]
fn without_empty_settings(command: clap::Command, unreadable: &mut Option<String>) -> clap::Command {
    let command = command.mut_args(|argument| {
        let value = argument.get_env().and_then(std::env::var_os);
        if value.as_ref().is_some_and(|value| value.to_str().is_none()) {
            *unreadable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
        }
        // A negative number is a value, to be refused with what it must be, rather than an unknown option.
        let argument =
            if argument.get_action().takes_values() { argument.allow_negative_numbers(true) } else { argument };
        if value.is_some_and(|value| value.is_empty()) { argument.env(Resettable::Reset) } else { argument }
    });
    command.mut_subcommands(|command| without_empty_settings(command, unreadable))
}

type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

fn serve(config: Config) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let clock = Clock::system();
    let telemetry = {
        let _on = runtime.enter();
        Telemetry::start(&config, &clock)?
    };
    let served = runtime.block_on(cli::serve::serve(config, clock, &telemetry));
    telemetry.flush(if matches!(served, Err(ServeError::Forced)) { FORCED_FLUSH_TIMEOUT } else { FLUSH_TIMEOUT });
    // Work left running after a forced stop must not hold up the process.
    runtime.shutdown_background();
    served?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Args)]
struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseConfig,

    /// Take over the previous server's database even if other clients are connected to it. Their statements on
    /// sync_changes fail until the takeover is complete.
    #[arg(long)]
    while_connected: bool,

    /// Drop the previous server's table once it has been taken over.
    #[arg(long)]
    drop_old: bool,

    /// Then grant the replicas' role its rights, as deploy/grants.sql does. The role is created if it is missing.
    #[arg(long)]
    grant: bool,

    /// With --grant: the password to set for this role. Default: unchanged.
    #[arg(long, env, hide_env_values = true, value_parser = |text: &str| Ok::<_, std::convert::Infallible>(Secret::from(text)))]
    replica_password: Option<Secret>,
}

fn migrate(args: &MigrateArgs) -> Outcome {
    telemetry::logs::init_for_command();
    let url = args.database.direct_url();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut out = Output::default();
    if args.drop_old {
        out.line(match runtime.block_on(store::takeover::drop_old(url))? {
            true => "The previous server's table has been dropped.",
            false => "There is no table of the previous server.",
        });
    }
    runtime.block_on(store::takeover::run(url, args.while_connected, &mut |line| out.line(line)))?;
    let done = runtime.block_on(store::schema::migrate(url))?;
    match done.applied {
        0 => out.line(format_args!("The schema is at version {}; nothing to do.", done.version)),
        applied => out.line(format_args!("The schema is at version {}; {applied} applied.", done.version)),
    }
    if args.grant {
        runtime.block_on(store::schema::grant(url, args.replica_password.as_ref()))?;
        out.line("The role mana_sync_replica has the rights of a replica.");
    }
    out.end().map_err(CommandError::Output)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a command that uses only the database.
fn run(command: impl Future<Output = Result<(), CommandError>>) -> Outcome {
    telemetry::logs::init_for_command();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)?;
    Ok(ExitCode::SUCCESS)
}

fn health(args: &commands::HealthArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let readiness = runtime.block_on(commands::health(args))?;
    let mut out = Output::default();
    out.line(readiness.text);
    out.end().map_err(CommandError::Output)?;
    Ok(if readiness.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ask_admin(args: &admin::client::AdminArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let all_done = runtime.block_on(admin::client::run(args))?;
    Ok(if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reports an error with all its causes.
fn report(error: &dyn std::error::Error) {
    complain(format_args!("mana-sync: {error}"));
    let mut cause = error.source();
    while let Some(error) = cause {
        complain(format_args!("  because: {error}"));
        if let Some(advice) = error.downcast_ref().and_then(db::error::advice) {
            complain(format_args!("  because: {advice}"));
        }
        cause = error.source();
    }
}
