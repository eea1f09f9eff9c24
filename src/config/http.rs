//! What a connection may cost, and whose pages may call.

use super::{AllowedOrigin, Origin};
use clap::Args;
use std::time::Duration;

/// What a connection may cost, and whose pages may call.
#[derive(Args, Clone, Debug)]
pub struct HttpConfig {
    /// Origins whose pages may call, comma-separated, such as https://todo.example.com. https://*.example.com stands
    /// for any subdomain of one or more labels, never for example.com itself, another scheme or another port. Apps and
    /// extensions are named as their pages are: capacitor://localhost.
    #[arg(long, env, default_value = "", hide_default_value = true, value_delimiter = ',', value_parser = Origin::parse)]
    pub cors_origins: Vec<AllowedOrigin>,

    /// Bytes that this replica holds of heads and messages of those who have not authenticated yet, at most, beside what
    /// each connection costs. What does not fit waits as long as QUEUE_TIMEOUT_MS says, and is then answered 503.
    #[arg(long, env, default_value_t = 32 << 20, value_parser = clap::value_parser!(u32).range(1 << 20..))]
    pub max_unauthenticated_bytes: u32,

    /// How long a client may take to send a request's head, or keep a connection idle, in milliseconds. Longer
    /// than balancers keep their idle connections, so that they are the ones to close them.
    #[arg(long, env, default_value = "75000", value_parser = super::millis)]
    pub header_timeout_ms: Duration,

    /// How long a client may take to send a request's body, in milliseconds.
    #[arg(long, env, default_value = "60000", value_parser = super::millis)]
    pub body_timeout_ms: Duration,

    /// How long a write may wait for a client that does not read before the connection is ended, in milliseconds.
    #[arg(long, env, default_value = "20000", value_parser = super::millis)]
    pub write_timeout_ms: Duration,
}
