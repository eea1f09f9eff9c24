//! Makes sure that row-level security hides no changes from replicas (G2).
//!
//! Hidden rows are no error for PostgreSQL: a reader would be told that there is nothing, with a cursor past changes that
//! it never got; and with a hidden head, that the database had gone back to an earlier state. So every page says whether
//! row-level security applies to the replicas' role. If it does, there must be a policy that lets the role see all rows,
//! as that of `deploy/row_level_security.sql`. Readiness asks the same, also about writing ([`super::fitness`]).

use super::StoreError;
use crate::db::{Pool, Sql};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long it is taken for granted that the policies are as they were.
const LASTS: Duration = Duration::from_secs(1);

/// The condition that row-level security lets the role read all rows of a table, or insert or update some: the table's oid,
/// and `r` to read, `a` to insert or `w` to update, both as SQL. A policy may refuse single writes, and then they fail; what
/// is hidden is missed.
macro_rules! all_rows_are_open {
    ($table:literal, $command:literal) => {
        concat!(
            "(not row_security_active(",
            $table,
            ") or coalesce((
                select bool_or(polpermissive and opens) and bool_and(polpermissive or opens) from (
                    select p.polpermissive, ",
            $command,
            " <> 'r' or coalesce(pg_get_expr(p.polqual, p.polrelid) = 'true', false) as opens
                    from pg_policy p
                    where p.polrelid = ",
            $table,
            " and p.polcmd in ('*', ",
            $command,
            ") and exists (select from unnest(p.polroles) as r (role)
                               where case r.role when 0 then true else pg_has_role(r.role, 'USAGE') end)
                ) mine), false))"
        )
    };
}
pub(super) use all_rows_are_open;

/// True if the policies let the role see all changes and all heads.
static SEES_ALL: Sql = Sql {
    text: concat!(
        "select ",
        all_rows_are_open!("to_regclass('sync_changes')", "'r'"),
        " and ",
        all_rows_are_open!("to_regclass('sync_heads')", "'r'")
    ),
    types: &[],
};

/// Whether the replicas' role sees all changes. Clones share what is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Visibility(Arc<Mutex<Option<Instant>>>);

impl Visibility {
    /// Checks that the role sees all changes, unless that was checked a moment ago.
    ///
    /// # Errors
    /// It does not, or the database does not say.
    pub(super) async fn check(&self, pool: &Pool) -> Result<(), StoreError> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some_and(|known| known.elapsed() < LASTS) {
            return Ok(());
        }
        let asked = Instant::now();
        let rows = pool.query(&SEES_ALL, &[]).await?;
        if !rows.first().map_or(Ok(false), |row| row.try_get(0))? {
            return Err(StoreError::Hidden);
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        Ok(())
    }
}
