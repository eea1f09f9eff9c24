//! Stop signals: the first one means stop, a second one means stop at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use mana_dev::{DevError, say::note};

#[derive(Clone, Debug, Default)]
pub struct Stop {
    pub soft: CancellationToken,
    pub hard: CancellationToken,
}

impl Stop {
    /// Makes SIGINT, SIGTERM and SIGHUP cancel these tokens instead of ending this process.
    pub fn on_signals() -> Result<Self, DevError> {
        let stop = Self::default();
        let (mut interrupt, mut terminate, mut hangup) =
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
        let tokens = stop.clone();
        tokio::spawn(async move {
            loop {
                // The kernel and the shell may both announce that the terminal is gone: that counts as one request.
                let insistent = tokio::select! {
                    _ = interrupt.recv() => true,
                    _ = terminate.recv() => true,
                    _ = hangup.recv() => false,
                };
                if !tokens.soft.is_cancelled() {
                    note("\nStopping … (again to stop at once)");
                    tokens.soft.cancel();
                } else if insistent {
                    tokens.hard.cancel();
                }
            }
        });
        Ok(stop)
    }
}

fn listen(kind: SignalKind) -> Result<Signal, DevError> {
    signal(kind).map_err(DevError::io("listen for signals"))
}
