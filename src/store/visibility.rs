//! Makes sure that row-level security hides no changes from replicas (G2).
//!
//! Hidden rows are no error for PostgreSQL: a reader would be told that there is nothing, with a cursor past changes that
//! it never got. So every page says whether row-level security applies to the replicas' role. If it does, there must be a
//! policy that lets the role see all rows, as that of `deploy/row_level_security.sql`.

use super::StoreError;
use crate::db::{Pool, Sql};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long it is taken for granted that the policies are as they were.
const LASTS: Duration = Duration::from_secs(1);

/// True if the policies let the role see all changes.
static SEES_ALL: Sql = Sql {
    text: "
with mine as (
    select p.polpermissive, pg_get_expr(p.polqual, p.polrelid) as condition
    from pg_policy p
    where p.polrelid = to_regclass('sync_changes') and p.polcmd in ('*', 'r')
      and exists (select from unnest(p.polroles) as r (role)
                  where case r.role when 0 then true else pg_has_role(r.role, 'USAGE') end)
)
select not row_security_active(to_regclass('sync_changes'))
    or coalesce(bool_or(polpermissive and condition = 'true'), false) and coalesce(bool_and(polpermissive or condition = 'true'), false)
from mine",
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
