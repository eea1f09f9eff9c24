//! Ctrl-C and SIGTERM: drops running work, which ends the processes it started.

use std::future::Future;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

/// Returns the result of `work`, or 130 if told to stop before that.
pub async fn unless_stopped(work: impl Future<Output = ExitCode>) -> ExitCode {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return work.await;
    };
    tokio::select! {
        code = work => code,
        _ = interrupt.recv() => ExitCode::from(130),
        _ = terminate.recv() => ExitCode::from(130),
    }
}
