//! What differs where a bucket is a distributed schema of Citus (docs/buckets.md).
//!
//! Citus sends a statement to the server that has the bucket's tables if it is a simple one. The push is none: it is a
//! function there (`distribute/citus.sql`) of statements that are. Reads are sent as they are.

use super::batch::PUSH_TYPES;
use super::layout::Layout;
use super::{Store, StoreError};
use crate::config::{Config, Host, PostgresUrl};
use crate::db::{ConnectError, DbError, Sql};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// How statements are planned. Citus sends a call of a function to where its tables are if it knows what the function is
/// given, so a plan for any parameters would keep the push here; PostgreSQL, left to choose, sees that such a plan costs more. For
/// reads it sees that planning them anew does.
pub(super) const PLANS: [(&str, &str); 3] = [("plan_cache_mode", "auto"), ("enable_seqscan", "off"), ("jit", "off")];

macro_rules! push_by_function {
    ($free_only:literal) => {
        Sql {
            text: concat!(
                "select log_id, head, previous, known_logs from sync_push_many(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, ",
                $free_only,
                ")"
            ),
            types: PUSH_TYPES.split_at(20).0,
        }
    };
}

/// As the push of [`super::batch`].
pub(super) static PUSH: Sql = push_by_function!("false");
/// As its push to free logs.
pub(super) static PUSH_FREE: Sql = push_by_function!("true");

/// Whether a row of a push is there. Constraints have other names on the server that has the tables, and the one that says
/// so in its stead leaves them out; no other of ours can be violated.
pub(super) fn is_duplicate(error: &DbError) -> bool {
    error.sqlstate() == Some("23505")
}

/// Where each bucket's tables are, as Citus names its servers.
static PLACEMENTS: Sql = Sql {
    text: "
select c.relnamespace::regnamespace::text, n.nodename, n.nodeport
from pg_dist_partition p join pg_class c on c.oid = p.logicalrelid
join pg_dist_shard s on s.logicalrelid = p.logicalrelid
join pg_dist_placement l on l.shardid = s.shardid
join pg_dist_node n on n.groupid = l.groupid and n.noderole = 'primary'
where c.relname = 'sync_heads'",
    types: &[],
};

/// A server of a Citus cluster, by the name and port by which Citus and our settings know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct WorkerAddress {
    host: String,
    port: u16,
}

impl fmt::Display for WorkerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl WorkerAddress {
    /// Those of `DATABASE_WORKER_URLS`, in their order; none where buckets are not on Citus.
    pub(super) fn all(config: &Config, layout: Layout) -> Result<Arc<[WorkerAddress]>, ConnectError> {
        if !layout.is_on_citus() {
            if !config.database_worker_urls.is_empty() {
                tracing::warn!("DATABASE_WORKER_URLS is of no use: the logs are not distributed over a Citus cluster");
            }
            return Ok([].into());
        }
        let address = |url: &crate::config::Secret| {
            let url = PostgresUrl::parse(url.expose())?;
            // Of several hosts of one worker the first is the one that Citus may know.
            let first = url.hosts.into_iter().next();
            Ok(first.map_or(WorkerAddress { host: String::new(), port: 0 }, |endpoint| match endpoint.host {
                Host::Unix(folder) => WorkerAddress { host: folder.display().to_string(), port: endpoint.port },
                Host::Tcp { name, .. } => WorkerAddress { host: name, port: endpoint.port },
            }))
        };
        config.database_worker_urls.iter().map(address).collect()
    }
}

impl Store {
    /// The servers that the buckets' tables are on, by schema. To be asked of the coordinator.
    pub(super) async fn placements(&self) -> Result<HashMap<String, WorkerAddress>, StoreError> {
        let read = |row: &tokio_postgres::Row| {
            let (schema, host, port): (String, String, i32) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            Ok((schema, WorkerAddress { host, port: u16::try_from(port).unwrap_or(0) }))
        };
        self.pool.query(&PLACEMENTS, &[]).await?.iter().map(read).collect()
    }

    /// Leads further connections to this worker, by its place in `DATABASE_WORKER_URLS`.
    pub(super) async fn prefer(&self, worker: usize) {
        self.pool.prefer(worker).await;
    }
}
