//! Persistence of the tokens that operators refuse: a starting replica reads them before it is ready.
//!
//! On a connection of the admin surface, like [`super::inspect`].

use crate::auth::{MAX_REFUSED, TooManyRefused};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

/// Maximum number of tokens, as replicas refuse no more. Of more, those refused for longest are read.
const MAX_STORED: i64 = MAX_REFUSED as i64;

const FORGET: &str = "delete from sync_refused_tokens where expires_at <= now()";
const ACCEPT: &str = "delete from sync_refused_tokens where token_id = $1";
/// Beyond the maximum, one that is stored would take the place of another when replicas read them again.
const KEEP: &str = "
insert into sync_refused_tokens as known (token_id, expires_at) select $1, to_timestamp($2::float8 / 1000)
where (select count(*) from sync_refused_tokens) < $3 or $1 in (select token_id from sync_refused_tokens)
on conflict (token_id) do update set expires_at = greatest(known.expires_at, excluded.expires_at)
returning 1";
const READ: &str = "
select token_id, (extract(epoch from expires_at) * 1000)::int8 from sync_refused_tokens
where expires_at > now() order by expires_at desc limit $1";

/// The reason that refused tokens were not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum RefusedTokensError {
    /// The role lacks a right.
    #[error("the role lacks rights: SELECT, INSERT, UPDATE and DELETE on sync_refused_tokens")]
    Rights(#[source] tokio_postgres::Error),
    /// The maximum number is stored already.
    #[error(transparent)]
    Full(#[from] TooManyRefused),
    /// The database did not respond or failed.
    #[error("cannot query the database for the refused tokens")]
    Database(#[source] tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for RefusedTokensError {
    fn from(error: tokio_postgres::Error) -> RefusedTokensError {
        match error.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => RefusedTokensError::Rights(error),
            _ => RefusedTokensError::Database(error),
        }
    }
}

/// Stores that a token is refused until this time, in milliseconds since the epoch, or until a later time stored
/// before. Expired tokens are deleted.
///
/// # Errors
/// There are too many, and this one is not stored; or the database failed, and it may or may not be stored.
pub async fn keep(client: &Client, token_id: &str, until: u64) -> Result<(), RefusedTokensError> {
    client.query_typed(FORGET, &[]).await?;
    // Exact for longer than any token lives.
    let until = until as f64;
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&token_id, Type::TEXT), (&until, Type::FLOAT8), (&MAX_STORED, Type::INT8)];
    let kept = client.query_typed(KEEP, &parameters).await?;
    if kept.is_empty() { Err(TooManyRefused.into()) } else { Ok(()) }
}

/// Removes a token that is to be accepted again.
///
/// # Errors
/// The database failed: the token may or may not be stored.
pub async fn accept(client: &Client, token_id: &str) -> Result<(), RefusedTokensError> {
    client.query_typed(ACCEPT, &[(&token_id, Type::TEXT)]).await?;
    Ok(())
}

/// Returns all refused tokens, and until when they are refused.
///
/// # Errors
/// The database failed.
pub async fn read(client: &Client) -> Result<Vec<(String, SystemTime)>, RefusedTokensError> {
    let rows = client.query_typed(READ, &[(&MAX_STORED, Type::INT8)]).await?;
    let read = |row: &Row| {
        let until: i64 = row.try_get(1)?;
        Ok((row.try_get(0)?, UNIX_EPOCH + Duration::from_millis(until.max(0).cast_unsigned())))
    };
    rows.iter().map(read).collect()
}
