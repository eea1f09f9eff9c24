//! The admin port, and what the public port tells of the inside.

use super::Secret;
use clap::Args;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Fewer characters can be guessed.
const MIN_TOKEN: usize = 16;

/// Settings of the admin port.
#[derive(Args, Clone, Debug)]
pub struct AdminConfig {
    /// Port of the admin surface: the console, its API, metrics and health. Default: there is none.
    #[arg(long, env)]
    pub admin_port: Option<u16>,

    /// Address that ADMIN_PORT listens on. It speaks plain HTTP: beyond this machine, let it be reached through a proxy
    /// with TLS or within a private network only.
    #[arg(long, env, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub admin_host: IpAddr,

    /// The token that ADMIN_PORT asks for, of at least 16 characters; the same on all replicas. Required with ADMIN_PORT.
    #[arg(long, env, hide_env_values = true, value_parser = admin_token)]
    pub admin_token: Option<Secret>,

    /// How long a login to the console lasts, in milliseconds.
    #[arg(long, env, default_value = "3600000", value_parser = super::millis)]
    pub admin_login_ms: Duration,

    /// Serve /metrics on PORT, and let /health and /health/ready tell there what they count and what is missing. `false`
    /// leaves that to ADMIN_PORT; PORT then answers probes by their status alone.
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
