//! `mana-sync usage`: shows who stores how much.

use super::{CommandError, written};
use crate::config::DatabaseConfig;
use crate::output::{escaped, plain};
use crate::store::lifecycle::{Archive, Usage};
use clap::Args;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use std::io::Write;

/// Arguments of `mana-sync usage`.
#[derive(Args, Debug)]
pub struct UsageArgs {
    #[command(flatten)]
    database: DatabaseConfig,

    /// The number of users and apps to list, largest first.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,

    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

/// Number of numeric columns; the others are names.
const NUMBERS: usize = 6;
const TITLES: [&str; 8] = ["bytes", "garbage", "changes", "records", "trimmed", "(bytes)", "app", "user"];

/// Prints the largest logs.
pub async fn run(args: &UsageArgs) -> Result<(), CommandError> {
    let usage = Archive::connect(&args.database, "usage").await?.usage(args.top.into()).await?;
    let mut out = std::io::stdout().lock();
    written(if args.json { write_lines(&mut out, &usage) } else { write_table(&mut out, &usage) })
}

fn write_lines(out: &mut impl Write, usage: &[Usage]) -> std::io::Result<()> {
    for log in usage {
        let line = serde_json::json!({
            "user": log.user, "app": log.app, "bytes": log.bytes, "garbage": log.garbage, "changes": log.changes,
            "records": log.records, "trimmedChanges": log.history_changes, "trimmedBytes": log.history_bytes,
        });
        writeln!(out, "{}", escaped(&line.to_string()))?;
    }
    Ok(())
}

fn write_table(out: &mut impl Write, usage: &[Usage]) -> std::io::Result<()> {
    let row = |log: &Usage| -> Vec<String> {
        let numbers = [log.bytes, log.garbage, log.changes, log.records, log.history_changes, log.history_bytes];
        numbers.map(|number| number.to_string()).into_iter().chain([plain(&log.app), plain(&log.user)]).collect()
    };
    let mut table = Table::new();
    table.load_preset(NOTHING).add_row(TITLES).add_rows(usage.iter().map(row));
    for (number, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if number < NUMBERS {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "{}", table.trim_fmt())
}
