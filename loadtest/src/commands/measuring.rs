//! What `baseline` and `growth` have in common: options, surroundings, and how they end.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use mana_load::baseline::BaselineError;
use mana_load::engine::usage::raise_file_limit;
use mana_load::local::Surroundings;
use mana_load::report::files::{self, FileError};
use mana_load::report::model::Report;

/// How something is measured with replicas of its own.
#[derive(Args)]
pub struct MeasuringArgs {
    /// The server's program.
    #[arg(long, env = "MANA_SYNC_EXE", default_value = "target/release/mana-sync")]
    exe: PathBuf,
    /// Where logs and scripts go.
    #[arg(long, default_value = ".dev/bench", value_name = "FOLDER")]
    folder: PathBuf,
    /// Where the result goes as JSON; a page goes beside it.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A goal or a limit that is missed is a failure.
    #[arg(long)]
    strict: bool,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error(transparent)]
    Measuring(#[from] BaselineError),
    #[error(transparent)]
    File(#[from] FileError),
}

impl MeasuringArgs {
    /// What `mana-dev with-services` has put into the environment.
    pub fn surroundings(&self) -> Result<Surroundings, Stopped> {
        raise_file_limit();
        Ok(Surroundings::from_env(self.exe.clone(), self.folder.clone()).map_err(BaselineError::from)?)
    }

    /// Writes the report where it is wanted. The exit status: 2 where something could not be measured (`failed`), 1 where
    /// a goal or a limit was `missed` and that counts.
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
