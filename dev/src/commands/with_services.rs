//! `mana-dev with-services -- COMMAND`: everything that replicas need, for a command that starts replicas itself, such
//! as a measurement.
//!
//! Unlike with `with-postgres`, the data is durable and kept: measurements include the cost of commits, and data that took
//! long to load can be reused.

use std::process::ExitCode;

use super::{args::WithServicesArgs, database, run::run_command, signals::Stop};
use mana_dev::{
    Credits, DevError, Issuer, SERVICE_KEY, SigningKey, cluster::DATABASE, lock::FolderLock, place, ports::local,
    postgres::PG_BIN, signing::KEY_FILE,
};

/// Returns the command's exit status, or 128 plus the signal's number if it was killed.
pub async fn with_services(args: WithServicesArgs) -> Result<ExitCode, DevError> {
    let stop = Stop::on_signals()?;
    place::create(&args.data_dir)?;
    let _only_one = FolderLock::take(&args.data_dir.join("lock"), &args.data_dir)?;
    let wanted = database::Wanted { folder: &args.data_dir, port: None, settings: args.settings.clone(), reset: false };
    let postgres = tokio::select! {
        started = database::start(wanted) => started?,
        () = stop.soft.cancelled() => return Ok(ExitCode::from(130)),
    };
    let key_file = args.data_dir.join(KEY_FILE);
    let key = SigningKey::load_or_create(&key_file)?;
    let anywhere = local(0);
    let issuer = Issuer::start(anywhere, std::slice::from_ref(&key)).await?;
    let credits = Credits::start(anywhere, SERVICE_KEY).await?;
    let env = [
        ("DATABASE_URL", postgres.url(DATABASE)),
        ("JWKS_URL", issuer.jwks_url()),
        ("MANA_CREDITS_URL", credits.url()),
        ("MANA_SERVICE_KEY", SERVICE_KEY.to_owned()),
        ("MANA_LOAD_KEY", key_file.to_string_lossy().into_owned()),
        (PG_BIN, postgres.binaries().folder().to_string_lossy().into_owned()),
    ];
    run_command(&args.command, env, &stop).await
}
