//! Spreading buckets over the servers of a Citus cluster: each bucket's schema becomes a distributed schema, whose
//! tables are together on one server. Citus chooses the server, and can move the schema while replicas serve.

use super::{DistributeError, Progress, citus};
use crate::db::Session;
use crate::store::layout::Layout;
use tokio_postgres::Client;

type Error = tokio_postgres::Error;

/// Returns true if this server can distribute schemas: it has the Citus extension, 12 or newer.
pub(super) async fn is_present(connection: &Client) -> Result<bool, Error> {
    let present = "
        select exists (select from pg_extension where extname = 'citus')
           and to_regproc('pg_catalog.citus_schema_distribute') is not null";
    connection.query_one(present, &[]).await?.try_get(0)
}

/// Fails if the cluster has no server for buckets, or if this server is not its coordinator.
pub(super) async fn check(connection: &Client) -> Result<(), DistributeError> {
    let check = "
        select citus_is_coordinator(),
               exists (select from pg_dist_node where noderole = 'primary' and isactive and shouldhaveshards)";
    let row = connection.query_one(check, &[]).await?;
    match (row.try_get(0)?, row.try_get(1)?) {
        (true, true) => Ok(()),
        (true, false) => Err(DistributeError::NoWorkers),
        (false, _) => Err(DistributeError::NotCoordinator),
    }
}

/// Distributes the buckets' schemas, and reports how many are done.
pub(super) async fn distribute(
    connection: &Session,
    layout: Layout,
    say: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), DistributeError> {
    let schemas = layout.schemas();
    for (spread, schema) in schemas.iter().enumerate() {
        say(Progress { spread: spread as u64, buckets: schemas.len() as u64, ..Progress::default() });
        let is_spread = "select from pg_dist_schema where schemaid = $1::text::regnamespace";
        if connection.query_opt(is_spread, &[schema]).await?.is_none() {
            // Tables with triggers cannot be distributed, and these triggers would query other tables from where the
            // rows are, which Citus does not allow. Rows written by programs go through the view in the main schema.
            let distribute = format!(
                "drop trigger if exists sync_changes_accept on {schema}.sync_changes;
                 drop trigger if exists sync_changes_end_statement on {schema}.sync_changes;
                 drop trigger if exists sync_changes_forget on {schema}.sync_changes;
                 select citus_schema_distribute('{schema}')"
            );
            connection.batch_execute(&distribute).await?;
        }
        citus::make_functions(connection, schema).await?;
    }
    Ok(())
}
