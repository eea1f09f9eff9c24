//! `mana-load compare`, `mana-load page` and `mana-load merge`: work with earlier results.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use mana_load::report::compare::{self, Comparison};
use mana_load::report::files::{self, FileError};
use mana_load::report::html;
use mana_load::report::merge::{self, MergeError};

/// Shows what changed between two runs beyond noise, and what else was different.
///
/// Exit status: 0, or with --fail-on-regression 1 if something got worse by more than that or a check or threshold no
/// longer holds; 2 if a file cannot be read or written.
#[derive(Args)]
pub struct CompareArgs {
    /// The JSON of the run to compare with.
    first: PathBuf,
    /// The JSON of the run in question.
    second: PathBuf,
    /// Fail if a value got worse beyond noise and by more than this many percent.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    fail_on_regression: Option<f64>,
    /// Also write the comparison as an HTML page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Regenerates the page of a run from its JSON.
///
/// Exit status: 0, or 2 if a file cannot be read or written.
#[derive(Args)]
pub struct PageArgs {
    /// The JSON of a run.
    report: PathBuf,
    /// The file for the page; by default next to the JSON.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Merges the reports of several generators that ran one scenario at the same time.
///
/// Exit status: 0, or 2 if a file cannot be read or written, or the reports are not from one run.
#[derive(Args)]
pub struct MergeArgs {
    /// The JSON of each generator.
    #[arg(required = true)]
    reports: Vec<PathBuf>,
    /// The file for the merged JSON; its page and its JUnit XML are written next to it.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

/// The reasons why reports were not merged.
#[derive(Debug, thiserror::Error)]
enum NotMerged {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Merge(#[from] MergeError),
}

pub fn compare(args: &CompareArgs) -> ExitCode {
    exit(compare_files(args))
}

pub fn page(args: &PageArgs) -> ExitCode {
    exit(write_page(args).map(|()| ExitCode::SUCCESS))
}

pub fn merge(args: &MergeArgs) -> ExitCode {
    exit(merge_files(args).map(|()| ExitCode::SUCCESS))
}

fn merge_files(args: &MergeArgs) -> Result<(), NotMerged> {
    let reports = args.reports.iter().map(|path| files::read(path)).collect::<Result<Vec<_>, _>>()?;
    let page = files::write(&merge::merge(&reports)?, &args.output)?;
    println!("{}", page.display());
    Ok(())
}

fn compare_files(args: &CompareArgs) -> Result<ExitCode, FileError> {
    let comparison = Comparison::new(&files::read(&args.first)?, &files::read(&args.second)?);
    print!("{comparison}");
    if let Some(path) = &args.html {
        files::write_text(path, compare::page(&comparison).as_bytes())?;
    }
    let failed = args.fail_on_regression.is_some_and(|percent| comparison.is_regression(percent));
    Ok(if failed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn write_page(args: &PageArgs) -> Result<(), FileError> {
    let report = files::read(&args.report)?;
    let path = args.output.clone().unwrap_or_else(|| args.report.with_extension("html"));
    files::write_text(&path, html::page(&report).as_bytes())?;
    println!("{}", path.display());
    Ok(())
}

fn exit<E: std::error::Error + 'static>(result: Result<ExitCode, E>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("{}", crate::chain(&error));
        ExitCode::from(2)
    })
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if percent >= 0.0 => Ok(percent),
        _ => Err("must be a percentage of at least 0".to_owned()),
    }
}
