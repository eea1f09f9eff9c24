//! `mana-dev issuer`: only the token issuer, to try out replicas that have no issuer.

use std::process::ExitCode;

use super::{args::IssuerArgs, signals::Stop};
use mana_dev::{DevError, Issuer, SigningKey, say::say};

/// Publishes the key until told to stop.
pub async fn issuer(args: IssuerArgs) -> Result<ExitCode, DevError> {
    let stop = Stop::on_signals()?;
    let key = SigningKey::load_or_create(&args.key)?;
    let issuer = Issuer::start(args.bind, &[key]).await?;
    say(format_args!("JWKS_URL={}\ntokens: mana-dev token --key {}", issuer.jwks_url(), args.key.display()));
    stop.soft.cancelled().await;
    issuer.stop().await;
    Ok(ExitCode::SUCCESS)
}
