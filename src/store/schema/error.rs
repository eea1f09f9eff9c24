//! Why a schema cannot be used.

use crate::db::{ConnectError, DbError};
use crate::store::fitness::Unfit;
use crate::store::migrator::MigrateError;

/// Why the schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The database cannot be reached.
    #[error("the database cannot be reached")]
    Connect(#[from] ConnectError),
    /// The database cannot be asked for its schema.
    #[error("the database cannot be asked for its schema")]
    Database(#[from] tokio_postgres::Error),
    /// The database cannot serve.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The database does not answer.
    #[error("the database does not answer")]
    Timeout(#[from] tokio::time::error::Elapsed),
    /// The migrations could not be applied.
    #[error("the migrations could not be applied")]
    Migrate(#[from] MigrateError),
    /// The schema lacks a migration that this replica needs.
    #[error("the schema lacks migration {missing}, which this version needs: run `mana-sync migrate` first")]
    TooOld {
        /// The first that is missing.
        missing: i64,
    },
    /// The schema is for newer replicas.
    #[error("the schema is for replicas that know migration {needed}, this one knows {known}: start a newer version")]
    TooNew {
        /// The migration that replicas must know.
        needed: i64,
        /// The newest that this one knows.
        known: i64,
    },
    /// The database holds the sync_changes of the server before: run `mana-sync migrate`, which takes it over.
    #[error("the database holds the sync_changes of the server before: run `mana-sync migrate`, which takes it over")]
    ServerBefore,
    /// Taking over the database of the server before is not finished: run `mana-sync migrate` again.
    #[error("taking over the database of the server before is not finished: run `mana-sync migrate` again")]
    Unfinished,
    /// The logs are being distributed over buckets.
    #[error("the logs are being distributed over buckets: let `mana-sync distribute` end, or run it again")]
    Moving,
    /// A bucket lacks a migration that this replica needs.
    #[error("bucket {schema} lacks migration {missing}, which this version needs: run `mana-sync migrate` first")]
    BucketTooOld {
        /// Its schema.
        schema: String,
        /// The first that is missing.
        missing: i64,
    },
}

impl SchemaError {
    /// Whether `mana-sync migrate` would mend it, which somebody may be running at this moment.
    pub fn lacks_migration(&self) -> bool {
        matches!(self, SchemaError::TooOld { .. } | SchemaError::BucketTooOld { .. })
    }

    /// Why a replica waits, in one sentence for operators; none if that is only that its database is away.
    pub fn sentence(&self) -> Option<String> {
        match self {
            SchemaError::Connect(error @ (ConnectError::NoPrimary | ConnectError::Refused(_))) => {
                Some(error.sentence())
            }
            SchemaError::Connect(_) | SchemaError::Database(_) | SchemaError::Timeout(_) => None,
            other => Some(other.to_string()),
        }
    }

    /// Whether it may be over in a while: the database is away, or still starting.
    pub fn is_passing(&self) -> bool {
        match self {
            SchemaError::Connect(error) => error.is_passing(),
            SchemaError::Timeout(_) | SchemaError::Moving => true,
            SchemaError::Database(error)
            | SchemaError::Migrate(MigrateError::Database(error) | MigrateError::Refused { source: error, .. }) => {
                DbError::may_pass(error)
            }
            SchemaError::Unfit(unfit) => unfit.is_passing(),
            SchemaError::Migrate(_)
            | SchemaError::TooOld { .. }
            | SchemaError::BucketTooOld { .. }
            | SchemaError::TooNew { .. }
            | SchemaError::ServerBefore
            | SchemaError::Unfinished => false,
        }
    }
}
