//! `mana-sync token`: a token of the local issuer, alone on stdout, to use in scripts.

use super::{DevError, SigningKey, args::TokenArgs, say::say};

pub fn token(args: &TokenArgs) -> Result<(), DevError> {
    let key = SigningKey::load(&args.who.key)?;
    say(key.token(&args.who.user, args.ttl));
    Ok(())
}
