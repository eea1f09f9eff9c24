//! `mana-sync erase`: erases a user.

use super::{CommandError, written};
use crate::config::DatabaseConfig;
use crate::output::{Output, counted, plain};
use crate::store::lifecycle::Archive;
use clap::Args;
use std::io::{IsTerminal, Write};

/// Arguments of `mana-sync erase`.
#[derive(Args, Debug)]
pub struct EraseArgs {
    #[command(flatten)]
    database: DatabaseConfig,

    /// The user to erase.
    #[arg(long)]
    user: String,

    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
}

/// Erases everything stored for a user: changes, what was trimmed of them, logs. Asks for confirmation unless told not
/// to.
pub async fn run(args: &EraseArgs) -> Result<(), CommandError> {
    if !args.yes && !is_meant(&args.user)? {
        return Err(CommandError::NotConfirmed);
    }
    let erased = Archive::connect(&args.database, "erase").await?.erase(&args.user).await?;
    let mut out = Output::default();
    let user = plain(&args.user);
    out.line(format_args!("{} of {user} erased, including what was kept of trimmed ones.", counted(erased, "change")));
    written(out.end())
}

/// Asks for confirmation on a terminal; without one, nothing is confirmed.
fn is_meant(user: &str) -> Result<bool, CommandError> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("Everything stored for {} will be permanently erased. Type the user's id to continue: ", plain(user));
    std::io::stderr().flush().map_err(CommandError::Output)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(CommandError::Input)?;
    Ok(answer.trim_end_matches(['\r', '\n']) == user)
}
