//! The command line.

mod commands;

use clap::Parser;
use commands::Command;
use std::process::ExitCode;

/// Runs a whole mana-sync cluster on this machine, to try it out and to develop against
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    run(cli.command).unwrap_or_else(|error| {
        report(&*error);
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(command.run())?)
}

/// Prints an error with all its causes.
fn report(error: &dyn std::error::Error) {
    eprintln!("mana-dev: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
}
