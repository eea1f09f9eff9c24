//! Finds the database at startup. Until it is there and usable, the open ports answer probes and say what is missing.

use super::RunError;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::startup::{self, WaitReason};
use crate::shutdown::Shutdown;
use crate::store::fitness::Fitness;
use crate::store::schema::{self, SchemaError};
use crate::store::{Buckets, Layout, same_database};
use crate::telemetry::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// Pause between attempts to find the database.
const START_PAUSE: Duration = Duration::from_millis(500);

/// Returns the logs and their distribution; none if the replica was told to stop before they were found.
pub(super) async fn find_database(
    config: &Config,
    public: &[TcpListener],
    admin: Option<&TcpListener>,
    metrics: &Arc<Metrics>,
    clock: &Clock,
    shutdown: &Shutdown,
) -> Result<Option<(Layout, Buckets)>, RunError> {
    let reason = WaitReason::default();
    let waiting_at = |listener, with_metrics| (listener, startup::router(metrics, clock, &reason, with_metrics));
    let public = public.iter().map(|listener| waiting_at(listener, config.admin.public_metrics));
    let waiting: Vec<_> = public.chain(admin.map(|listener| waiting_at(listener, true))).collect();
    let schema = Box::pin(startup::serve_until(&waiting, await_schema(config, &reason)));
    let Some(found) = shutdown.draining.run_until_cancelled(schema).await else { return Ok(None) };
    let layout = found?;
    let store = Buckets::new(config, layout, metrics, clock)?;
    check_fitness(&store).await?;
    Ok(Some((layout, store)))
}

/// Refuses a database that cannot serve this replica. Problems that may be fixed in the meantime are logged and waited
/// for.
async fn check_fitness(store: &Buckets) -> Result<(), RunError> {
    // If it does not answer, readiness reports it.
    for doubt in store.doubts().await.unwrap_or_default() {
        tracing::warn!("{doubt}");
    }
    match store.fitness().await {
        Ok(Fitness { unfit: Some(unfit), .. }) if !unfit.is_passing() => Err(unfit.into()),
        Ok(Fitness { unfit: Some(unfit), .. }) => {
            tracing::warn!("not ready: {unfit}");
            Ok(())
        }
        // If it still does not answer, readiness reports it.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Waits for the database and prepares its schema. Returns how its logs are distributed.
async fn await_schema(config: &Config, reason: &WaitReason) -> Result<Layout, SchemaError> {
    let migrations_due = Instant::now() + config.migration_wait_ms;
    loop {
        match prepare_schema(config).await {
            Err(error) if error.is_passing() || (error.may_await_migration() && Instant::now() < migrations_due) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "waiting for the database");
                reason.set(error.sentence());
                tokio::time::sleep(START_PAUSE).await;
            }
            other => return other,
        }
    }
}

async fn prepare_schema(config: &Config) -> Result<Layout, SchemaError> {
    let database = &config.database;
    // Before anything is applied to a database that may belong to somebody else.
    if let Some(listen_url) = database.database_listen_url.as_ref().filter(|url| **url != database.database_url) {
        same_database::check(&database.database_url, listen_url).await?;
    }
    if config.migrate_on_start {
        schema::migrate(database.direct_url()).await?;
    }
    schema::check(database.direct_url()).await
}
