//! Graceful shutdown.

use clap::Args;
use std::time::Duration;

/// Graceful shutdown.
#[derive(Args, Clone, Debug)]
pub struct DrainConfig {
    /// How long a stopping replica keeps accepting connections, to let load balancers notice that it is not ready, in
    /// milliseconds.
    #[arg(long, env, default_value = "5000", value_parser = super::millis_or_zero)]
    pub drain_delay_ms: Duration,

    /// Period over which a stopping replica spreads the closing of its connections, in milliseconds.
    #[arg(long, env, default_value = "15000", value_parser = super::millis_or_zero)]
    pub drain_window_ms: Duration,
}
