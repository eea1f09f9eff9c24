//! Settings of the channel that all replicas share: who may speak on it, how much, and how often.

use super::{Secret, millis, millis_or_zero};
use clap::Args;
use std::time::Duration;

/// Least length of a key, in bytes: a shorter one could be guessed.
const MIN_KEY: usize = 16;

/// What replicas say to each other, and how connections are kept even among them.
#[derive(Args, Clone, Debug)]
pub struct FanoutConfig {
    /// The key that replicas sign their notifications with, at least 16 bytes; whatever is not signed is only a reason to
    /// ask the database. Comma-separated, to change it without a gap: the first signs, all are accepted. Default: made
    /// from MANA_SERVICE_KEY.
    #[arg(long, env, hide_env_values = true, value_delimiter = ',', value_parser = channel_key)]
    pub channel_key: Vec<Secret>,

    /// Wake-ups of listeners in a second that the notifications of all replicas together may cost PostgreSQL: each wakes
    /// every replica. 40,000 are about one of its cores.
    #[arg(long, env, default_value_t = 40_000, value_parser = clap::value_parser!(u32).range(100..))]
    pub notify_budget: u32,

    /// Pushes a second of all replicas together up to which a push's own transaction sends its notification, which
    /// arrives earlier and costs the database less. Beyond, a notification of the publisher follows the commit: transactions
    /// that notify would wait for each other. 0: always.
    #[arg(long, env, default_value_t = 250, value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub commit_notify_rate: u32,

    /// Wake-ups waiting to be published, at most; what is beyond is left to the reconcilers. 0 leaves all to them, to
    /// measure what publishing costs.
    #[arg(long, env, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(..=10_000_000))]
    pub publish_queue: u32,

    /// Bytes that they may take, at most.
    #[arg(long, env, default_value_t = 32 << 20, value_parser = clap::value_parser!(u32).range(64 << 10..))]
    pub publish_queue_bytes: u32,

    /// How often a replica says on the channel that it is there, in milliseconds; less often where there are so many that
    /// this would cost more than a twentieth of NOTIFY_BUDGET. One that is not heard for three times as long, or for four
    /// seconds longer, whichever is less, is gone.
    #[arg(long, env, default_value = "1000", value_parser = millis)]
    pub presence_ms: Duration,

    /// Over about how long a replica that has more than a tenth more connections than the mean closes those that are too
    /// many, so that they come back elsewhere, in milliseconds. 0: never.
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
