//! What differs where a bucket is a distributed schema of Citus (docs/buckets.md).
//!
//! Citus sends a statement to the server that has the bucket's tables if it is a simple one. The push is none: it is a
//! function there (`distribute/citus.sql`) of statements that are. Reads are sent as they are.

use super::batch::PUSH_TYPES;
use crate::db::{DbError, Sql};

/// How statements are planned: with their parameters at hand, because Citus has to know them to send a call of a function
/// to where its tables are.
pub(super) const PLANS: [(&str, &str); 3] =
    [("plan_cache_mode", "force_custom_plan"), ("enable_seqscan", "off"), ("jit", "off")];

macro_rules! push_by_function {
    ($free_only:literal) => {
        Sql {
            text: concat!(
                "select log_id, head, previous, known_logs from sync_push_many(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, ",
                $free_only,
                ")"
            ),
            types: PUSH_TYPES,
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
