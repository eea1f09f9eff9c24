//! `mana-sync serve`: runs one replica as the process.

use super::signals::StopSignals;
use super::{removed, rlimit};
use mana_sync::app::{self, Listeners, RunError};
use mana_sync::clock::Clock;
use mana_sync::config::{Config, ConfigError};
use mana_sync::shutdown::Shutdown;
use mana_sync::telemetry::Telemetry;
use std::pin::pin;

/// The reason that `serve` ended with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The replica could not run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Signals cannot be caught.
    #[error("cannot install the signal handlers")]
    Signals(#[source] std::io::Error),
    /// A second signal forced the stop.
    #[error("received a second signal to stop")]
    Forced,
}

impl From<ConfigError> for ServeError {
    fn from(error: ConfigError) -> Self {
        RunError::from(error).into()
    }
}

/// Runs a replica until SIGTERM or SIGINT; a second signal ends it at once.
pub(crate) async fn serve(config: Config, clock: Clock, telemetry: &Telemetry) -> Result<(), ServeError> {
    config.check()?;
    removed::warn();
    let mut signals = StopSignals::catch().map_err(ServeError::Signals)?;
    rlimit::raise(config.max_connections, config.database_pool_size);
    let listeners = Listeners::bind(&config)?;
    let shutdown = Shutdown::default();
    let mut running = pin!(app::run(listeners, config, clock, telemetry, shutdown.clone()));
    tokio::select! {
        ended = &mut running => return Ok(ended?),
        () = signals.next() => shutdown.draining.cancel(),
    }
    tokio::select! {
        ended = running => Ok(ended?),
        () = signals.next() => Err(ServeError::Forced),
    }
}
