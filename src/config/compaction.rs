//! Log compaction.

use clap::Args;
use std::time::Duration;

/// Age at which a change is trimmed unless COMPACT_AFTER_MS says otherwise.
pub const DEFAULT_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Log compaction and history, shared by `serve` and the commands.
#[derive(Args, Clone, Copy, Debug)]
pub struct CompactionConfig {
    /// Age of a change, in milliseconds, at which whatever it lost to later writes is trimmed from the log. Default:
    /// seven days. 0: replicas never trim; `mana-sync compact` then trims regardless of age.
    #[arg(long, env, default_value = "604800000", value_parser = long_millis)]
    pub compact_after_ms: Duration,

    /// Number of days to keep what was trimmed in sync_history, for `mana-sync why`. 0 keeps none.
    #[arg(long, env, default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=36_500))]
    pub history_days: u32,

    /// Time after a record's deletion, in milliseconds, at which its fields are trimmed from the log too and only the
    /// delete remains; see docs/compaction.md. 0: never.
    #[arg(long, env, default_value = "0", value_parser = long_millis)]
    pub purge_deleted_after_ms: Duration,
}

/// Parses an age, which may be longer than any timeout: up to ten years.
fn long_millis(text: &str) -> Result<Duration, String> {
    const TEN_YEARS: u64 = 10 * 366 * 24 * 3600 * 1000;
    match text.parse() {
        Ok(millis) if millis <= TEN_YEARS => Ok(Duration::from_millis(millis)),
        Ok(_) => Err(format!("must be at most {TEN_YEARS} milliseconds, which is ten years")),
        Err(_) => Err("must be a whole number of milliseconds".to_owned()),
    }
}
