//! Ctrl-C and SIGTERM: what runs is dropped, which ends the processes that it started.

use std::future::Future;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

/// The answer of `work`, or 130 if we are told to stop before.
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
