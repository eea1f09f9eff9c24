//! What becomes of changes that lost.

use clap::Args;
use std::time::Duration;

/// How old a change is when it is trimmed, unless COMPACT_AFTER_MS says otherwise.
pub const DEFAULT_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Trimming the log, and what is kept of the past: what `serve` and the commands share.
#[derive(Args, Clone, Copy, Debug)]
pub struct CompactionConfig {
    /// How old a change is, in milliseconds, when what it lost to later writes is taken out of the log. Default: seven
    /// days. 0: replicas never trim; `mana-sync compact` then trims whatever its age.
    #[arg(long, env, default_value = "604800000", value_parser = long_millis)]
    pub compact_after_ms: Duration,

    /// For how many days what was taken out of the log is kept in sync_history, for `mana-sync why`. 0 keeps none.
    #[arg(long, env, default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=36_500))]
    pub history_days: u32,

    /// How long ago a record was deleted, in milliseconds, when its fields are taken out of the log as well, so that
    /// only the delete stays: see docs/compaction.md. 0: never.
    #[arg(long, env, default_value = "0", value_parser = long_millis)]
    pub purge_deleted_after_ms: Duration,
}

/// Ages may be longer than any timeout: up to ten years.
fn long_millis(text: &str) -> Result<Duration, String> {
    const TEN_YEARS: u64 = 10 * 366 * 24 * 3600 * 1000;
    match text.parse() {
        Ok(millis) if millis <= TEN_YEARS => Ok(Duration::from_millis(millis)),
        Ok(_) => Err(format!("must be at most {TEN_YEARS} milliseconds, which is ten years")),
        Err(_) => Err("must be a whole number of milliseconds".to_owned()),
    }
}
