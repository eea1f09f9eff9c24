//! `mana-sync compact`: trims logs now.

use super::{CommandError, written};
use crate::config::{CompactionConfig, DatabaseConfig};
use crate::output::{Output, counted};
use crate::store::compaction::{Compactor, Progress};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

/// Arguments of `mana-sync compact`.
#[derive(Args, Debug)]
pub struct CompactArgs {
    #[command(flatten)]
    database: DatabaseConfig,

    #[command(flatten)]
    compaction: CompactionConfig,

    /// Only this user's logs.
    #[arg(long)]
    user: Option<String>,

    /// Only this app's logs.
    #[arg(long)]
    app: Option<String>,
}

/// Steps of the progress bar per log.
const PARTS: u64 = 1_000;

/// Trims what is older than COMPACT_AFTER_MS, and reports what was removed.
pub async fn run(args: &CompactArgs) -> Result<(), CommandError> {
    let (user, app) = (args.user.as_deref(), args.app.as_deref());
    let mut compactor = Compactor::of_command(&args.database, &args.compaction).await?;
    let bar = ProgressBar::new(compactor.count_logs(user, app).await? * PARTS);
    // The template is a constant; without it the default bar is fine.
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent}%, {msg}, {elapsed}") {
        bar.set_style(style);
    }
    let show = |progress: Progress| {
        bar.set_position(progress.logs * PARTS + (progress.part * PARTS as f64) as u64);
        bar.set_message(format!("{} logs done, {} changes removed", progress.logs, progress.trimmed.gone));
    };
    let done = compactor.trim_all(user, app, show).await?;
    bar.finish_and_clear();
    let trimmed = done.trimmed;
    let mut out = Output::default();
    out.line(format_args!(
        "{}: {} examined, {} trimmed, {} of them removed entirely; {} removed.",
        counted(done.logs, "log"),
        counted(trimmed.seen, "change"),
        trimmed.rows,
        trimmed.gone,
        counted(trimmed.bytes, "byte")
    ));
    match (done.unavailable, done.failed) {
        (0, 0) => written(out.end()),
        (0, failed) => Err(CommandError::NotTrimmed { failed }),
        (buckets, failed) => Err(CommandError::BucketsNotTrimmed { buckets, failed }),
    }
}
