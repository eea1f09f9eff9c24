//! Stop signals.

use std::io::IsTerminal;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, and SIGHUP from a terminal that is closed.
#[derive(Debug)]
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// True if this process was started in a terminal; not after `nohup`.
    has_terminal: bool,
}

impl StopSignals {
    /// Installs the signal handlers.
    pub(super) fn catch() -> std::io::Result<StopSignals> {
        let has_terminal =
            std::io::stdin().is_terminal() || std::io::stdout().is_terminal() || std::io::stderr().is_terminal();
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            has_terminal,
        })
    }

    /// Waits for the next signal to stop.
    ///
    /// Without a terminal, SIGHUP asks a service to read its settings anew, as after a rotation of logs. Without a
    /// handler it would end the replica at once, with all of its connections.
    pub(super) async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    if self.has_terminal {
                        return;
                    }
                    tracing::info!("SIGHUP changes nothing: settings are read at the start; restart the replica to change them");
                }
            }
        }
    }
}
