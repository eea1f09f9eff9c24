//! `mana-dev token`: prints a token of the local issuer and nothing else, for use in scripts.

use std::process::ExitCode;

use super::args::TokenArgs;
use mana_dev::{DevError, SigningKey, say::say};

/// Creates no key: a key that no issuer publishes would be useless.
pub fn token(args: &TokenArgs) -> Result<ExitCode, DevError> {
    let key = SigningKey::load(&args.who.key)?;
    say(key.token(&args.who.user, args.ttl));
    Ok(ExitCode::SUCCESS)
}
