//! `mana-sync dev with-postgres -- COMMAND`: what `make test` runs the tests under.

use std::{
    ffi::OsString,
    io::{IsTerminal as _, stdin},
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitCode, ExitStatus},
    time::Duration,
};

use nix::sys::signal::Signal;

use super::{
    DevError,
    args::WithPostgresArgs,
    binaries::PG_BIN,
    child::{Child, Group},
    signals::Stop,
    temporary::TemporaryPostgres,
};

/// How the command learns where its PostgreSQL is.
pub const TEST_DATABASE_URL: &str = "TEST_DATABASE_URL";
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers what the command answered; 128 and the signal's number if it was killed.
pub async fn with_postgres(args: WithPostgresArgs) -> Result<ExitCode, DevError> {
    let stop = Stop::on_signals()?;
    let postgres = tokio::select! {
        started = TemporaryPostgres::start(&args.data_dir, Vec::new()) => started?,
        () = stop.soft.cancelled() => return Ok(ExitCode::from(130)),
    };
    let env = [
        (TEST_DATABASE_URL, postgres.server().admin_url()),
        // What starts a PostgreSQL itself need not search or fetch again.
        (PG_BIN, postgres.server().binaries().folder().to_string_lossy().into_owned()),
    ];
    run_command(&args.command, env, &stop).await
}

/// Runs a command with `env` added to ours until it ends; if we are told to stop, so is it. Answers as it does.
pub(super) async fn run_command(
    words: &[OsString],
    env: impl IntoIterator<Item = (&'static str, String)>,
    stop: &Stop,
) -> Result<ExitCode, DevError> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| DevError::Usage("name the command after --".into()))?;
    let mut command = Command::new(program);
    command.args(arguments).envs(env);
    // At a terminal it is the user's program: it may read, and Ctrl-C goes to all of it. Else the
    // processes that it starts are ours to stop too.
    let group = if stdin().is_terminal() { Group::Ours } else { Group::Own };
    let child = Child::spawn(command, Signal::SIGTERM, group)
        .map_err(DevError::io(format!("run {}", program.to_string_lossy())))?;
    let status = tokio::select! {
        status = child.wait() => status,
        () = stop.soft.cancelled() => end(&child, stop).await,
    };
    Ok(code(status))
}

async fn end(child: &Child, stop: &Stop) -> ExitStatus {
    child.signal(Signal::SIGTERM);
    tokio::select! {
        status = child.wait_for(PATIENCE) => if let Some(status) = status {
            return status;
        },
        () = stop.hard.cancelled() => {}
    }
    child.signal(Signal::SIGKILL);
    child.wait().await
}

fn code(status: ExitStatus) -> ExitCode {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
