//! `mana-sync dev issuer`: the token issuer alone, where replicas are to be tried without one of their own.

use std::process::ExitCode;

use super::{DevError, Issuer, SigningKey, args::IssuerArgs, say::say, signals::Stop};

/// Publishes the key until told to stop.
pub async fn issuer(args: IssuerArgs) -> Result<ExitCode, DevError> {
    let stop = Stop::on_signals()?;
    let key = SigningKey::load_or_create(&args.key)?;
    let issuer = Issuer::start(args.bind, &[key]).await?;
    say(format_args!("JWKS_URL={}\ntokens: mana-sync token --key {}", issuer.jwks_url(), args.key.display()));
    stop.soft.cancelled().await;
    issuer.stop().await;
    Ok(ExitCode::SUCCESS)
}
