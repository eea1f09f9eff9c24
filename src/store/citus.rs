//! Differences for buckets that are distributed schemas of Citus (docs/buckets.md).
//!
//! Citus forwards a statement to the server with the bucket's tables if the statement is simple. A push is not: there
//! it is a function (`distribute/citus.sql`) made of simple statements. Reads are sent unchanged.

use super::push_statements::PUSH_TYPES;
use super::workers::WorkerAddress;
use super::{Store, StoreError};
use crate::db::{Admitted, DbError, Sql};
use std::collections::HashMap;

/// Planner settings. Citus forwards a function call to the server with its tables only if the arguments are known at
/// planning time; a generic plan would keep the push on this server. Left to choose, PostgreSQL sees that a generic
/// plan costs more. For reads, it sees that replanning is cheap enough.
pub(super) const PLANS: [(&str, &str); 3] = [("plan_cache_mode", "auto"), ("enable_seqscan", "off"), ("jit", "off")];

macro_rules! push_by_function {
    ($free_only:literal) => {
        Sql {
            text: concat!(
                "select log_id, head, previous, known_logs, null::int8 from sync_push_many(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, ",
                $free_only,
                ")"
            ),
            types: PUSH_TYPES,
        }
    };
}

/// The push of [`super::push_statements`].
pub(super) static PUSH: Sql = push_by_function!("false");
/// Its push to free logs.
pub(super) static PUSH_FREE: Sql = push_by_function!("true");

/// Returns true if a row of a push exists already. Constraints have different names on the server with the tables, and
/// the server that forwards the error omits them; none of our other constraints can be violated.
pub(super) fn is_duplicate(error: &DbError) -> bool {
    error.sqlstate() == Some("23505")
}

/// The location of each bucket's tables, by the names that Citus has for its servers; and all of these servers.
static PLACEMENTS: Sql = Sql {
    text: "
select c.relnamespace::regnamespace::text, n.nodename, n.nodeport,
       (select string_agg(concat_ws(' ', w.nodeid, w.groupid, w.nodename, w.nodeport), ', ' order by w.nodeid)
        from pg_dist_node w where w.isactive and w.noderole = 'primary')
from pg_dist_partition p join pg_class c on c.oid = p.logicalrelid
join pg_dist_shard s on s.logicalrelid = p.logicalrelid
join pg_dist_placement l on l.shardid = s.shardid
join pg_dist_node n on n.groupid = l.groupid and n.noderole = 'primary'
where c.relname = 'sync_heads'",
    types: &[],
};

/// The servers of a Citus cluster, and which of them has which bucket.
#[derive(Debug, Default)]
pub(super) struct Placements {
    /// By the buckets' schemas.
    pub(super) buckets: HashMap<String, WorkerAddress>,
    /// All servers, to be compared; `None` if there are none.
    pub(super) servers: Option<String>,
}

impl Store {
    /// Returns where the buckets' tables are. To be asked of the coordinator.
    pub(super) async fn placements(&self) -> Result<Placements, StoreError> {
        let mut placements = Placements::default();
        for row in self.pool.query(&PLACEMENTS, &[]).await? {
            let (schema, host, port): (String, String, i32) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            placements.buckets.insert(schema, WorkerAddress { host, port: u16::try_from(port).unwrap_or(0) });
            placements.servers = row.try_get(3)?;
        }
        Ok(placements)
    }

    /// Sets which server the URL of this worker, given by its index in `DATABASE_WORKER_URLS`, may lead to.
    pub(super) fn admit(&self, worker: usize, admitted: Admitted) {
        self.pool.admit(worker, admitted);
    }

    /// Returns false if this worker's URL may not be used, or turned out to lead to another server.
    pub(super) fn may_use(&self, worker: usize) -> bool {
        self.pool.is_usable(worker)
    }

    /// Directs new connections to this worker, given by its index in `DATABASE_WORKER_URLS`.
    pub(super) async fn prefer(&self, worker: usize) {
        self.pool.prefer(worker).await;
    }
}
