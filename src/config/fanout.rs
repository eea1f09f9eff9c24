//! Settings of the channel that all replicas share: its keys, rates and intervals.

use super::{Secret, millis, millis_or_zero};
use clap::Args;
use std::time::Duration;

/// Minimum length of a key, in bytes; a shorter one could be guessed.
const MIN_KEY: usize = 16;

/// Notifications between replicas, and the rebalancing of connections.
#[derive(Args, Clone, Debug)]
pub struct FanoutConfig {
    /// The key that replicas sign their notifications with, at least 16 bytes. An unsigned notification only prompts a
    /// database lookup. Comma-separated for rotation without a gap: the first key signs, all are accepted. Default:
    /// derived from MANA_SERVICE_KEY.
    #[arg(long, env, hide_env_values = true, value_delimiter = ',', value_parser = channel_key)]
    pub channel_key: Vec<Secret>,

    /// Listener wake-ups per second that the notifications of all replicas together may cost PostgreSQL; each
    /// notification wakes every replica. 40,000 take about one of its cores.
    #[arg(long, env, default_value_t = 40_000, value_parser = clap::value_parser!(u32).range(100..))]
    pub notify_budget: u32,

    /// Pushes per second, over all replicas, up to which a push's own transaction sends its notification, which arrives
    /// sooner and costs the database less. Beyond that, the publisher notifies after the commit, because transactions
    /// that notify would wait for each other. 0: always after the commit.
    #[arg(long, env, default_value_t = 250, value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub commit_notify_rate: u32,

    /// Maximum number of wake-ups waiting to be published; any beyond it are left to the reconcilers. 0 leaves all of
    /// them to the reconcilers, to measure what publishing costs.
    #[arg(long, env, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(..=10_000_000))]
    pub publish_queue: u32,

    /// Maximum bytes held by wake-ups waiting to be published.
    #[arg(long, env, default_value_t = 32 << 20, value_parser = clap::value_parser!(u32).range(64 << 10..))]
    pub publish_queue_bytes: u32,

    /// Interval at which a replica announces its presence on the channel, in milliseconds; longer if there are so many
    /// replicas that this would cost more than a twentieth of NOTIFY_BUDGET. A replica not heard from for three
    /// intervals, or for one interval plus four seconds, whichever is less, is considered gone.
    #[arg(long, env, default_value = "1000", value_parser = millis)]
    pub presence_ms: Duration,

    /// Approximate period, in milliseconds, over which a replica with over a tenth more connections than the mean
    /// closes the excess, to make those clients reconnect elsewhere. 0: never.
    #[arg(long, env, default_value = "0", value_parser = millis_or_zero)]
    pub rebalance_ms: Duration,
}

// The message must not repeat the key.
fn channel_key(text: &str) -> Result<Secret, &'static str> {
    match text.trim() {
        key if key.len() >= MIN_KEY => Ok(Secret::from(key)),
        _ => Err("each key must have at least 16 bytes"),
    }
}
