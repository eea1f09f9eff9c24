//! Verifies that two URLs lead to the same database: what one migrates, the other must query.

use super::fitness::Unfit;
use super::schema::{NAME, STEP_TIMEOUT, SchemaError};
use crate::config::Secret;
use crate::db::Connector;
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;

/// Fails if two URLs do not lead to the same database, before anything is done to either.
///
/// # Errors
/// One of them cannot be queried, or they differ.
pub async fn check(url: &Secret, direct_url: &Secret) -> Result<(), SchemaError> {
    let one = timeout(STEP_TIMEOUT, Place::of(url));
    let other = timeout(STEP_TIMEOUT, Place::of(direct_url));
    let (one, other) = tokio::join!(one, other);
    match one??.is(&other??) {
        true => Ok(()),
        false => Err(Unfit::OtherDatabase.into()),
    }
}

/// Identifies a database; the same through a pooler.
struct Place {
    database: Option<String>,
    is_standby: Option<String>,
    started: Option<String>,
}

impl Place {
    async fn of(url: &Secret) -> Result<Place, SchemaError> {
        const PLACE: &str =
            "begin; set local statement_timeout = 0; select oid || ' ' || datname, pg_is_in_recovery(), extract(epoch from pg_postmaster_start_time())
                             from pg_database where datname = current_database(); commit";
        let session = Connector::new(url, NAME)?.open().await?;
        let messages = session.simple_query(PLACE).await?;
        session.close().await;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let column = |at| row.and_then(|row| row.get(at)).map(str::to_owned);
        Ok(Place { database: column(0), is_standby: column(1), started: column(2) })
    }

    /// Returns true if both are the same database. A standby's start time differs from its primary's.
    fn is(&self, other: &Place) -> bool {
        self.database == other.database && (self.is_standby != other.is_standby || self.started == other.started)
    }
}
