//! WebSockets and streams.

use clap::Args;
use std::time::Duration;

/// WebSockets and streams.
#[derive(Args, Clone, Debug)]
pub struct SessionsConfig {
    /// Maximum age of a WebSocket or stream, in milliseconds. Each is closed at a random moment in the second half of
    /// this period, as if the replica were stopping, to let clients spread to newly added replicas. 0: no maximum.
    #[arg(long, env, default_value = "0", value_parser = super::millis_or_zero)]
    pub max_connection_age_ms: Duration,

    /// Maximum number of WebSockets and streams per user on this replica.
    #[arg(long, env, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_sessions_per_user: u32,

    /// How long a WebSocket may take to authenticate, in milliseconds.
    #[arg(long, env, default_value = "10000", value_parser = super::millis)]
    pub ws_auth_timeout_ms: Duration,

    /// Interval between heartbeats on an idle stream, in milliseconds; the protocol promises one every 30 s.
    #[arg(long, env, default_value = "20000", value_parser = super::millis)]
    pub sse_heartbeat_ms: Duration,
}
