//! What one user may do on a replica. 0: as much as there is.

use super::networks::{Network, NetworkError};
use clap::Args;

/// One network, or none where the setting is empty.
pub type Networks = Option<Network>;

/// Reads a network, or none.
pub(crate) fn read_networks(text: &str) -> Result<Networks, NetworkError> {
    if text.trim().is_empty() { Ok(None) } else { text.parse().map(Some) }
}

/// The limits of one user, and of one address.
#[derive(Args, Clone, Debug)]
pub struct LimitsConfig {
    /// Pushes of one user in a second, on this replica, on average; for a moment ten times as many. 0: no limit.
    #[arg(long, env, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub max_user_pushes_per_second: u32,

    /// Pulls of one user in a second, and streams that are opened, on this replica, on average; for a moment ten times
    /// as many. 0: no limit.
    #[arg(long, env, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub max_user_pulls_per_second: u32,

    /// Bytes of bodies that one user pushes in a day, on this replica: what was pushed is forgiven evenly over the day.
    /// 0: no limit.
    #[arg(long, env, default_value_t = 0)]
    pub max_user_bytes_per_day: u64,

    /// Bytes of changes that may be stored of one user. Beyond it only deletes are accepted, and what is stored already. A
    /// delete is stored as well: see docs/limits.md for what makes room. 0: no limit.
    #[arg(long, env, default_value_t = 0)]
    pub max_user_bytes_stored: u64,

    /// Connections from one address (of IPv6: from one network of 64 bits) that this replica holds, at most. Addresses of
    /// TRUSTED_PROXIES are not counted, but those of the clients they speak for. 0: no limit.
    #[arg(long, env, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub max_connections_per_address: u32,

    /// Addresses or networks of balancers, comma-separated, such as 10.0.0.0/8: their X-Forwarded-For says who their
    /// client is, or the PROXY protocol does.
    #[arg(long, env, default_value = "", hide_default_value = true, value_delimiter = ',', value_parser = read_networks)]
    pub trusted_proxies: Vec<Networks>,

    /// Expect the PROXY protocol, version 1 or 2, on every connection from TRUSTED_PROXIES.
    #[arg(long, env, default_value_t = false, action = clap::ArgAction::Set)]
    pub proxy_protocol: bool,

    /// Apps of one user. 0: no limit.
    #[arg(long, env, default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub max_user_apps: u32,
}
