//! Per-connection costs and allowed origins.

use super::{AllowedOrigin, Origin};
use clap::Args;
use std::time::Duration;

/// Per-connection costs and allowed origins.
#[derive(Args, Clone, Debug)]
pub struct HttpConfig {
    /// Origins that may make requests, comma-separated, such as https://todo.example.com. https://*.example.com matches
    /// any subdomain of one or more labels, but never example.com itself, another scheme or another port. Name apps and
    /// extensions by the origin of their pages: capacitor://localhost.
    #[arg(long, env, default_value = "", hide_default_value = true, value_delimiter = ',', value_parser = Origin::parse)]
    pub cors_origins: Vec<AllowedOrigin>,

    /// Maximum bytes that this replica holds for the request heads and messages of unauthenticated clients, beyond what
    /// each connection costs. Anything that does not fit waits up to QUEUE_TIMEOUT_MS and is then answered 503.
    #[arg(long, env, default_value_t = 32 << 20, value_parser = clap::value_parser!(u32).range(1 << 20..))]
    pub max_unauthenticated_bytes: u32,

    /// How long a client may take to send a request head, or keep a connection idle, in milliseconds. Should exceed the
    /// idle timeout of load balancers, to let them be the ones that close idle connections.
    #[arg(long, env, default_value = "75000", value_parser = super::millis)]
    pub header_timeout_ms: Duration,

    /// How long a client may take to send a request body, in milliseconds.
    #[arg(long, env, default_value = "60000", value_parser = super::millis)]
    pub body_timeout_ms: Duration,

    /// How long a write may wait for a client that is not reading before the connection is closed, in milliseconds.
    #[arg(long, env, default_value = "20000", value_parser = super::millis)]
    pub write_timeout_ms: Duration,
}
