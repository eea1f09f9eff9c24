//! Finds out whose fault it is that PostgreSQL cannot represent a value.
//!
//! Values are validated before they are stored. If PostgreSQL refuses one nevertheless, the cause may be something that
//! others have put on the tables: a trigger, a generated column, an index on an expression. Clients give up a change
//! that cannot be stored, so they are told so only if that is true wherever it is stored.

use super::{StoreError, traced};
use crate::db::{DbError, Pool, Sql};
use crate::protocol::push::{NewChange, Push};
use tokio_postgres::types::Type;

/// Fails if PostgreSQL cannot represent one of these values.
static VALUES: Sql = Sql { text: "select count(v::jsonb) from unnest($1::text[]) as v", types: &[Type::TEXT_ARRAY] };

/// Returns the error of a push that was refused with `error` when it was stored alone.
pub(super) async fn find(pool: &Pool, push: &Push, error: StoreError) -> StoreError {
    match error {
        StoreError::Failed(error) if is_about_value(&error) => match check_values(pool, push).await {
            Ok(()) => StoreError::Failed(error),
            Err(StoreError::Failed(refused)) if is_about_value(&refused) => StoreError::Unstorable(error),
            // It will be sent again.
            Err(other) => other,
        },
        error => error,
    }
}

/// True for a value that is out of range or malformed, and for one that exceeds a limit of PostgreSQL: `SQLSTATE` class
/// 22, and 54000 and 54001.
fn is_about_value(error: &DbError) -> bool {
    error.sqlstate().is_some_and(|code| code.starts_with("22") || matches!(code, "54000" | "54001"))
}

async fn check_values(pool: &Pool, push: &Push) -> Result<(), StoreError> {
    let values: Vec<&str> = push.changes.iter().flat_map(values_of).flatten().collect();
    traced::run(pool, traced::VALUES, &VALUES, &[&values]).await?;
    Ok(())
}

fn values_of(change: &NewChange) -> [Option<&str>; 4] {
    let NewChange { data, stamps, claimed_stamps, extra, .. } = change;
    [data.as_deref(), Some(stamps), claimed_stamps.as_deref(), extra.as_deref()]
}
