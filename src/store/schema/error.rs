//! Errors of the schema.

use crate::db::{ConnectError, DbError};
use crate::store::fitness::Unfit;
use crate::store::migrator::MigrateError;

/// The reason that the schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The database cannot be reached.
    #[error("the database cannot be reached")]
    Connect(#[from] ConnectError),
    /// The database cannot be queried for its schema.
    #[error("cannot query the database for its schema")]
    Database(#[from] tokio_postgres::Error),
    /// The database cannot serve.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The database does not respond.
    #[error("the database does not answer")]
    Timeout(#[from] tokio::time::error::Elapsed),
    /// The migrations could not be applied.
    #[error("the migrations could not be applied")]
    Migrate(#[from] MigrateError),
    /// The schema lacks a migration that this replica needs.
    #[error("the schema lacks migration {missing}, which this version needs: run `mana-sync migrate` first")]
    TooOld {
        /// The first missing migration.
        missing: i64,
    },
    /// The schema requires a newer replica.
    #[error(
        "the schema is for replicas that know migration {needed}, but this one knows only {known}: start a newer version"
    )]
    TooNew {
        /// The migration that replicas must know.
        needed: i64,
        /// The newest that this one knows.
        known: i64,
    },
    /// The database has the previous server's sync_changes: run `mana-sync migrate`, which takes it over.
    #[error("the database holds the sync_changes of the previous server: run `mana-sync migrate`, which takes it over")]
    ServerBefore,
    /// The takeover of the previous server's database is not finished: run `mana-sync migrate` again.
    #[error("the takeover of the previous server's database is not finished: run `mana-sync migrate` again")]
    Unfinished,
    /// The logs are being distributed over buckets.
    #[error("the logs are being distributed over buckets: let `mana-sync distribute` finish, or run it again")]
    Moving,
    /// An earlier version is distributing the logs over buckets. The schema must not change until it has finished.
    #[error(
        "an earlier version is distributing the logs over buckets: let its `mana-sync distribute` finish, or run that again"
    )]
    MovingByEarlier,
    /// A bucket lacks a migration that this replica needs.
    #[error("bucket {schema} lacks migration {missing}, which this version needs: run `mana-sync migrate` first")]
    BucketTooOld {
        /// Its schema.
        schema: String,
        /// The first missing migration.
        missing: i64,
    },
}

impl SchemaError {
    /// Returns true if `mana-sync migrate`, which may be running right now, could fix it: it applies migrations, takes
    /// over the previous server's database, and with `--grant` creates the replicas' role and sets its password.
    pub fn may_await_migration(&self) -> bool {
        match self {
            SchemaError::TooOld { .. }
            | SchemaError::BucketTooOld { .. }
            | SchemaError::ServerBefore
            | SchemaError::Unfinished => true,
            SchemaError::Connect(error) => error.is_about_role(),
            _ => false,
        }
    }

    /// Returns why a replica is waiting, in one sentence for operators; `None` if its database is just unavailable.
    pub fn sentence(&self) -> Option<String> {
        match self {
            SchemaError::Connect(
                error @ (ConnectError::NoPrimary | ConnectError::Refused(_) | ConnectError::OneRefused(_)),
            ) => Some(error.sentence()),
            SchemaError::Connect(_) | SchemaError::Database(_) | SchemaError::Timeout(_) => None,
            other => Some(other.to_string()),
        }
    }

    /// Returns true if the error may pass: the database is unavailable, or still starting.
    pub fn is_passing(&self) -> bool {
        match self {
            SchemaError::Connect(error) => error.is_passing(),
            SchemaError::Timeout(_) | SchemaError::Moving | SchemaError::MovingByEarlier => true,
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
