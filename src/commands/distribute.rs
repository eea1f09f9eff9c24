//! `mana-sync distribute`: distributes the logs over buckets.

use super::{CommandError, written};
use crate::config::DatabaseConfig;
use crate::output::{Output, counted};
use crate::store::distribute::{self, Progress};
use crate::store::{Layout, MAX_BUCKETS};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

/// Arguments of `mana-sync distribute`.
#[derive(Args, Debug)]
pub struct DistributeArgs {
    #[command(flatten)]
    database: DatabaseConfig,

    /// The number of schemas. It cannot be changed afterwards; 16 is a good choice.
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=i64::from(MAX_BUCKETS)))]
    buckets: u16,
}

/// Distributes the logs, and shows the progress.
pub async fn run(args: &DistributeArgs) -> Result<(), CommandError> {
    // The command line has validated the number.
    let layout = Layout::over(args.buckets).unwrap_or(Layout::ONE);
    let bar = ProgressBar::new(0);
    // The template is a constant; without it the default bar is fine.
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} logs, {msg}, {elapsed}, {eta} left") {
        bar.set_style(style);
    }
    let mut show = |progress: Progress| {
        if progress.buckets > 0 {
            bar.set_message(format!("moving bucket {} of {} to its server", progress.spread + 1, progress.buckets));
            return;
        }
        bar.set_length(progress.logs);
        bar.set_position(progress.moved);
        bar.set_message(format!("{} changes", progress.changes));
    };
    let done = distribute::run(args.database.direct_url(), layout, &mut show).await?;
    bar.finish_and_clear();
    let mut out = Output::default();
    match done {
        None => out.line(format_args!("The logs are distributed over {} buckets; nothing to do.", args.buckets)),
        Some(done) => {
            let progress = done.progress;
            out.line(format_args!(
                "{} with {} moved; the logs are distributed over {} buckets.",
                counted(progress.moved, "log"),
                counted(progress.changes, "change"),
                args.buckets
            ));
            if done.on_citus {
                out.line("Citus has distributed the buckets over its servers.");
            }
            if done.left_behind > 0 {
                out.line(format_args!(
                    "{} rows belong to no log and were left in the tables sync_…_undistributed.",
                    done.left_behind
                ));
            }
        }
    }
    written(out.end())
}
