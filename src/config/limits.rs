//! Per-user and per-address limits. 0: no limit.

use super::networks::{Network, NetworkError};
use clap::Args;

/// One network, or `None` for an empty setting.
pub type Networks = Option<Network>;

/// Parses a network, or an empty text.
pub(crate) fn read_networks(text: &str) -> Result<Networks, NetworkError> {
    if text.trim().is_empty() { Ok(None) } else { text.parse().map(Some) }
}

/// Per-user and per-address limits.
#[derive(Args, Clone, Debug)]
pub struct LimitsConfig {
    /// Pushes per second of one user on this replica, on average; bursts of ten times as many are allowed. 0: no limit.
    #[arg(long, env, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub max_user_pushes_per_second: u32,

    /// Pulls and newly opened streams per second of one user on this replica, on average; bursts of ten times as many
    /// are allowed. 0: no limit.
    #[arg(long, env, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub max_user_pulls_per_second: u32,

    /// Body bytes that one user may push per day on this replica; the used amount is given back evenly over the day. 0:
    /// no limit.
    #[arg(long, env, default_value_t = 0)]
    pub max_user_bytes_per_day: u64,

    /// Maximum bytes of changes stored for one user. Beyond it, only deletes and changes that are already stored are
    /// accepted. Deletes are stored too: docs/limits.md says what frees space. 0: no limit.
    #[arg(long, env, default_value_t = 0)]
    pub max_user_bytes_stored: u64,

    /// Maximum number of connections to this replica from one address (IPv6: from one /64 network). Addresses in
    /// TRUSTED_PROXIES are not counted; those of their clients are. 0: no limit.
    #[arg(long, env, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub max_connections_per_address: u32,

    /// Addresses or networks of load balancers, comma-separated, such as 10.0.0.0/8. Their X-Forwarded-For or PROXY
    /// protocol header is trusted to name the client, and their X-Forwarded-Proto to name the scheme in traces.
    #[arg(long, env, default_value = "", hide_default_value = true, value_delimiter = ',', value_parser = read_networks)]
    pub trusted_proxies: Vec<Networks>,

    /// Require the PROXY protocol, version 1 or 2, on every connection from TRUSTED_PROXIES.
    #[arg(long, env, default_value_t = false, action = clap::ArgAction::Set)]
    pub proxy_protocol: bool,

    /// Maximum number of apps per user. 0: no limit.
    #[arg(long, env, default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub max_user_apps: u32,
}
