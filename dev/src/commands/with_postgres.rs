//! `mana-dev with-postgres -- COMMAND`: how `make test` runs the tests.

use std::process::ExitCode;

use super::{args::WithPostgresArgs, run::run_command, signals::Stop};
use mana_dev::{
    DevError, TEST_CITUS_WORKERS, TEST_DATABASE_URL, TemporaryCitus, TemporaryPostgres,
    postgres::{DataTemplate, PG_BIN, PG_TEMPLATE},
};

/// Returns the command's exit status, or 128 plus the signal's number if it was killed.
pub async fn with_postgres(args: WithPostgresArgs) -> Result<ExitCode, DevError> {
    let stop = Stop::on_signals()?;
    if args.citus {
        return with_citus(&args, &stop).await;
    }
    let starting = async {
        let template = DataTemplate::make(&args.data_dir).await?;
        let postgres = TemporaryPostgres::start_from(Some(template.path()), &args.data_dir, Vec::new()).await?;
        Ok::<_, DevError>((template, postgres))
    };
    let (template, postgres) = tokio::select! {
        started = starting => started?,
        () = stop.soft.cancelled() => return Ok(ExitCode::from(130)),
    };
    let env = [
        (TEST_DATABASE_URL, postgres.server().admin_url()),
        // Programs that start PostgreSQL themselves need not search, fetch or make a data folder again.
        (PG_BIN, postgres.server().binaries().folder().to_string_lossy().into_owned()),
        (PG_TEMPLATE, template.path().to_string_lossy().into_owned()),
    ];
    run_command(&args.command, env, &stop).await
}

async fn with_citus(args: &WithPostgresArgs, stop: &Stop) -> Result<ExitCode, DevError> {
    let citus = tokio::select! {
        started = TemporaryCitus::start(&args.data_dir) => started?,
        () = stop.soft.cancelled() => return Ok(ExitCode::from(130)),
    };
    let coordinator = citus.coordinator.server();
    let env = [
        (TEST_DATABASE_URL, coordinator.admin_url()),
        (TEST_CITUS_WORKERS, citus.worker_urls()),
        (PG_BIN, coordinator.binaries().folder().to_string_lossy().into_owned()),
    ];
    run_command(&args.command, env, stop).await
}
