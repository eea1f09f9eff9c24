//! WebSockets and streams.

use clap::Args;
use std::time::Duration;

/// WebSockets and streams.
#[derive(Args, Clone, Debug)]
pub struct SessionsConfig {
    /// How long a WebSocket or stream is kept at most, in milliseconds: each is closed at a random moment of the
    /// second half of it, as if the replica stopped, so that clients spread over replicas that were added. 0: for
    /// ever.
    #[arg(long, env, default_value = "0", value_parser = super::millis_or_zero)]
    pub max_connection_age_ms: Duration,

    /// WebSockets and streams that one user has on this replica, at most.
    #[arg(long, env, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_sessions_per_user: u32,

    /// How long a WebSocket may take to authenticate, in milliseconds.
    #[arg(long, env, default_value = "10000", value_parser = super::millis)]
    pub ws_auth_timeout_ms: Duration,

    /// How often an idle stream gets a heartbeat, in milliseconds; the protocol promises one every 30 s.
    #[arg(long, env, default_value = "20000", value_parser = super::millis)]
    pub sse_heartbeat_ms: Duration,
}
