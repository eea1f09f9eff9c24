//! What the person at the terminal wants: the first signal means stop, a second one stop at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use mana_dev::{DevError, say::note};

#[derive(Clone, Debug, Default)]
pub struct Stop {
    pub soft: CancellationToken,
    pub hard: CancellationToken,
}

impl Stop {
    /// From now on SIGINT, SIGTERM and SIGHUP don't end this process but cancel these tokens.
    pub fn on_signals() -> Result<Self, DevError> {
        let stop = Self::default();
        let (mut interrupt, mut terminate, mut hangup) =
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
        let tokens = stop.clone();
        tokio::spawn(async move {
            loop {
                // Kernel and shell may each announce that the terminal is gone: that is one wish.
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
