//! `mana-dev token`: a token of the local issuer, alone on stdout, to use in scripts.

use std::process::ExitCode;

use super::args::TokenArgs;
use mana_dev::{DevError, SigningKey, say::say};

/// Makes no key: one that no issuer publishes would be of no use.
pub fn token(args: &TokenArgs) -> Result<ExitCode, DevError> {
    let key = SigningKey::load(&args.who.key)?;
    say(key.token(&args.who.user, args.ttl));
    Ok(ExitCode::SUCCESS)
}
