//! Runs the command that the user has named, as if it had been called directly.

use std::{
    ffi::OsString,
    io::{IsTerminal as _, stdin},
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitCode, ExitStatus},
    time::Duration,
};

use nix::sys::signal::Signal;

use super::signals::Stop;
use mana_dev::{
    DevError,
    child::{Child, Group},
};

/// Maximum time the command may take to end after a stop signal.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Runs a command with `env` added to ours until it ends; if we are told to stop, so is the command. Returns its exit
/// status, or 128 plus the signal's number if it was killed.
pub async fn run_command(
    words: &[OsString],
    env: impl IntoIterator<Item = (&'static str, String)>,
    stop: &Stop,
) -> Result<ExitCode, DevError> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| DevError::Usage("name the command after --".into()))?;
    let mut command = Command::new(program);
    command.args(arguments).envs(env);
    // At a terminal it is the user's program: it may read, and Ctrl-C reaches all of it. Otherwise the processes it
    // starts are ours to stop too.
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
        status = child.wait_for(STOP_LIMIT) => if let Some(status) = status {
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
