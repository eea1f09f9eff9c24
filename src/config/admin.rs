//! The admin port, and what the public port reveals of the replica's state.

use super::Secret;
use clap::Args;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Minimum length of the token, in characters; a shorter one could be guessed.
const MIN_TOKEN: usize = 16;

/// Settings of the admin port.
#[derive(Args, Clone, Debug)]
pub struct AdminConfig {
    /// Port for the console, its API, metrics and health. Default: disabled.
    #[arg(long, env)]
    pub admin_port: Option<u16>,

    /// Address that ADMIN_PORT listens on. It speaks plain HTTP: expose it beyond this machine only through a proxy
    /// with TLS or on a private network.
    #[arg(long, env, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub admin_host: IpAddr,

    /// The token that ADMIN_PORT requires, at least 16 characters long; the same on all replicas. Required with
    /// ADMIN_PORT.
    #[arg(long, env, hide_env_values = true, value_parser = admin_token)]
    pub admin_token: Option<Secret>,

    /// How long a console login lasts, in milliseconds.
    #[arg(long, env, default_value = "3600000", value_parser = super::millis)]
    pub admin_login_ms: Duration,

    /// Serve /metrics on PORT, and include counts and the reasons for not being ready in /health and /health/ready
    /// there. With `false`, only ADMIN_PORT serves them, and PORT answers probes with a status code alone.
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub public_metrics: bool,
}

// The message must not repeat the token.
fn admin_token(text: &str) -> Result<Secret, &'static str> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    match is_plain && text.len() >= MIN_TOKEN {
        true => Ok(Secret::from(text)),
        false => Err("must be at least 16 visible ASCII characters, without spaces"),
    }
}
