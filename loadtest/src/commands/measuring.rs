//! The common part of `baseline` and `growth`: options, surroundings, and exit status.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use mana_load::baseline::BaselineError;
use mana_load::engine::usage::raise_file_limit;
use mana_load::local::Surroundings;
use mana_load::report::files::{self, FileError};
use mana_load::report::model::Report;

/// Options for measuring with our own replicas.
#[derive(Args)]
pub struct MeasuringArgs {
    /// The server's program.
    #[arg(long, env = "MANA_SYNC_EXE", default_value = "target/release/mana-sync")]
    exe: PathBuf,
    /// The folder for logs and scripts.
    #[arg(long, default_value = ".dev/bench", value_name = "FOLDER")]
    folder: PathBuf,
    /// The file for the result as JSON; an HTML page is written next to it.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fail if a goal or a limit is missed.
    #[arg(long)]
    strict: bool,
}

/// The reasons why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error(transparent)]
    Measuring(#[from] BaselineError),
    #[error(transparent)]
    File(#[from] FileError),
}

impl MeasuringArgs {
    /// Returns the surroundings that `mana-dev with-services` has put into the environment.
    pub fn surroundings(&self) -> Result<Surroundings, Stopped> {
        raise_file_limit();
        Ok(Surroundings::from_env(self.exe.clone(), self.folder.clone()).map_err(BaselineError::from)?)
    }

    /// Writes the report to the requested file. Returns the exit status: 2 if something could not be measured
    /// (`failed`), 1 if a goal or a limit was `missed` and that counts.
    pub fn end(&self, report: &Report, failed: bool, missed: bool) -> Result<ExitCode, Stopped> {
        if let Some(path) = &self.json {
            let page = files::write(report, path)?;
            println!("{} and {}", path.display(), page.display());
        }
        Ok(match (failed, missed && self.strict) {
            (true, _) => ExitCode::from(2),
            (false, true) => ExitCode::from(1),
            (false, false) => ExitCode::SUCCESS,
        })
    }
}
