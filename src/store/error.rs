//! Errors of the store.

use crate::db::DbError;
use crate::protocol::merge::UnreadableChange;
use std::sync::Arc;

/// The reason that the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is unavailable, busy, or not a primary: the same request may succeed later.
    #[error("the database cannot be used at the moment")]
    Unavailable(#[source] Arc<DbError>),
    /// Earlier pushes took too long.
    #[error("earlier pushes did not finish in time")]
    TurnTimeout,
    /// Earlier reads that take the database long took too long.
    #[error("earlier reads that take long did not finish in time")]
    ReadTimeout(#[from] tokio::time::error::Elapsed),
    /// PostgreSQL cannot represent a value of a push ([`super::unstorable`]). Nothing was stored.
    #[error("the database cannot represent a value")]
    Unstorable(#[source] DbError),
    /// An unexpected error.
    #[error("the database refused a statement")]
    Failed(#[source] DbError),
    /// A stored change cannot be decoded.
    #[error(transparent)]
    Unreadable(#[from] UnreadableChange),
    /// The task that was storing a push ended early.
    #[error("a push was abandoned halfway")]
    Abandoned,
    /// Another request was storing the same changes, again and again.
    #[error("the changes of a push were being stored elsewhere at the same time")]
    Contended,
    /// A trigger on a table drops rows: what was to be stored is not, or not all of it.
    #[error(
        "not all changes of a push were stored, because a trigger on {table} drops rows: see to it that no BEFORE trigger on it returns null"
    )]
    Dropped {
        /// The table.
        table: &'static str,
    },
    /// Row-level security hides changes, or heads, from the replicas' role.
    #[error(
        "row-level security hides rows of sync_changes or sync_heads from the role of DATABASE_URL: give it a policy that lets it see all of them (deploy/row_level_security.sql has one), or turn it off"
    )]
    Hidden,
    /// A change is larger than anything that is ever read; neither a push nor a program's insert can store one.
    #[error("the change stored at {at} µs takes {bytes} bytes, which is more than is sent to any device")]
    TooLong {
        /// Its position in the log, in microseconds.
        at: i64,
        /// Its size.
        bytes: usize,
    },
    /// A change of this many bytes is to be read, and its reader has reserved less.
    #[error("a change takes {0} bytes of memory")]
    NeedsMemory(usize),
    /// The operation of a stored change is unknown.
    #[error("the operation {0:?} of a stored change is unknown")]
    UnknownOp(String),
}

impl StoreError {
    /// Returns true if no connection was free.
    pub fn is_busy(&self) -> bool {
        matches!(self, StoreError::Unavailable(error) if matches!(**error, DbError::PoolTimeout))
    }

    /// Returns true if the error concerns the statement, and another one may succeed at once: it took too long, or too
    /// much.
    pub fn is_about_statement(&self) -> bool {
        match self {
            StoreError::Unavailable(error) => matches!(error.sqlstate(), Some("57014" | "53200")),
            StoreError::Unstorable(_) | StoreError::Failed(_) => true,
            _ => false,
        }
    }

    /// Describes the error for an operator in one sentence, without any part of a setting.
    pub fn sentence(&self) -> String {
        match self {
            StoreError::Unavailable(error) => error.sentence(),
            StoreError::Unstorable(error) | StoreError::Failed(error) => error.sentence(),
            _ => self.to_string(),
        }
    }
}

impl From<DbError> for StoreError {
    fn from(error: DbError) -> Self {
        let Some(code) = error.sqlstate() else {
            return match &error {
                // A result that cannot be read.
                DbError::Statement(_) if !error.is_disconnect() && !error.is_about_schema() => {
                    StoreError::Failed(error)
                }
                _ => StoreError::Unavailable(error.into()),
            };
        };
        // SQLSTATE classes: https://www.postgresql.org/docs/current/errcodes-appendix.html
        match code {
            // A standby, a former primary, or a database that was made read-only; tables that are not accessible, which an
            // operator may fix.
            "25006" | "42501" | "3F000" => StoreError::Unavailable(error.into()),
            // The schema was changed while this replica runs: the replica has to be restarted, or the schema changed back.
            _ if error.is_about_schema() => StoreError::Unavailable(error.into()),
            _ if error.is_disconnect() => StoreError::Unavailable(error.into()),
            _ => match code.get(..2) {
                // No connection or none allowed, statements forgotten by a pooler, deadlock, out of resources, wrong
                // state, operator intervention, system error.
                Some("08" | "26" | "28" | "3D" | "40" | "53" | "55" | "57" | "58") => {
                    StoreError::Unavailable(error.into())
                }
                _ => StoreError::Failed(error),
            },
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        DbError::from(error).into()
    }
}
