//! `mana-sync dev with-services -- COMMAND`: everything that replicas need, for a command that starts replicas
//! itself, such as a measurement.
//!
//! Unlike `with-postgres` the data is durable and stays: what is measured pays for its commits, and what took long to
//! fill is there the next time.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
};

use super::{
    Credits, DevError, Issuer, Postgres, PostgresOptions, SigningKey,
    args::WithServicesArgs,
    binaries::{Binaries, PG_BIN},
    datadir::stop_leftovers,
    local::{DATABASE, KEY, SERVICE_KEY},
    lock::FolderLock,
    place::{self, Account},
    signals::Stop,
    with_postgres::run_command,
};

/// Answers what the command answered; 128 and the signal's number if it was killed.
pub async fn with_services(args: WithServicesArgs) -> Result<ExitCode, DevError> {
    let stop = Stop::on_signals()?;
    place::create(&args.data_dir)?;
    let _only_one = FolderLock::take(&args.data_dir.join("lock"), &args.data_dir)?;
    let postgres = tokio::select! {
        started = start_postgres(&args) => started?,
        () = stop.soft.cancelled() => return Ok(ExitCode::from(130)),
    };
    let key_file = args.data_dir.join(KEY);
    let key = SigningKey::load_or_create(&key_file)?;
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
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

async fn start_postgres(args: &WithServicesArgs) -> Result<Postgres, DevError> {
    let account = Account::for_postgres()?;
    let binaries = Binaries::locate(&args.data_dir, account).await?;
    let data_dir = place::reachable(&args.data_dir.join("postgres"), account)?;
    stop_leftovers(&data_dir).await?;
    let options = PostgresOptions { data_dir, port: None, settings: args.settings.clone(), durable: true };
    let postgres = Postgres::start_with(binaries, options).await?;
    if !postgres.has_database(DATABASE).await? {
        postgres.create_database(DATABASE).await?;
    }
    Ok(postgres)
}
