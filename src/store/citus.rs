//! What differs where a bucket is a distributed schema of Citus (docs/buckets.md).
//!
//! Citus sends a statement to the server that has the bucket's tables if it is a simple one. The push is none: it is a
//! function there (`distribute/citus.sql`) of statements that are. Reads are sent as they are.

use super::push_statements::PUSH_TYPES;
use super::workers::WorkerAddress;
use super::{Store, StoreError};
use crate::db::{DbError, Sql};
use std::collections::HashMap;

/// How statements are planned. Citus sends a call of a function to where its tables are if it knows what the function is
/// given, so a plan for any parameters would keep the push here; PostgreSQL, left to choose, sees that such a plan costs more. For
/// reads it sees that planning them anew does.
pub(super) const PLANS: [(&str, &str); 3] = [("plan_cache_mode", "auto"), ("enable_seqscan", "off"), ("jit", "off")];

macro_rules! push_by_function {
    ($free_only:literal) => {
        Sql {
            text: concat!(
                "select log_id, head, previous, known_logs from sync_push_many(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, ",
                $free_only,
                ")"
            ),
            types: PUSH_TYPES,
        }
    };
}

/// As the push of [`super::push_statements`].
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

impl Store {
    /// The servers that the buckets' tables are on, by schema. To be asked of the coordinator.
    pub(super) async fn placements(&self) -> Result<HashMap<String, WorkerAddress>, StoreError> {
        let read = |row: &tokio_postgres::Row| {
            let (schema, host, port): (String, String, i32) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            Ok((schema, WorkerAddress { host, port: u16::try_from(port).unwrap_or(0) }))
        };
        self.pool.query(&PLACEMENTS, &[]).await?.iter().map(read).collect()
    }

    /// Lets connections be made to this worker, by its place in `DATABASE_WORKER_URLS`.
    pub(super) fn admit(&self, worker: usize) {
        self.pool.set_usable(worker, true);
    }

    /// Leads further connections to this worker, by its place in `DATABASE_WORKER_URLS`.
    pub(super) async fn prefer(&self, worker: usize) {
        self.pool.prefer(worker).await;
    }
}
