//! Why the store could not answer.

use crate::db::DbError;
use crate::protocol::merge::UnreadableChange;
use std::sync::Arc;

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, busy, or not a primary: the same request may succeed later.
    #[error("the database cannot be used at the moment")]
    Unavailable(#[source] Arc<DbError>),
    /// Pushes that came before took too long.
    #[error("pushes that came before did not end in time")]
    TurnTimeout,
    /// A value that PostgreSQL cannot represent. Nothing was stored.
    #[error("the database cannot represent a value")]
    Unstorable(#[source] DbError),
    /// Something that should not happen.
    #[error("the database refused a statement")]
    Failed(#[source] DbError),
    /// A stored change cannot be read.
    #[error(transparent)]
    Unreadable(#[from] UnreadableChange),
    /// The task that was storing a push ended early.
    #[error("a push was given up half-way")]
    Abandoned,
    /// The same changes were being stored by somebody else, again and again.
    #[error("the changes of a push were being stored elsewhere at the same time")]
    Contended,
    /// A change takes more than is read at all: neither a push nor a program's insert stores one.
    #[error("the change stored at {at} µs takes {bytes} bytes, which is more than any device is sent")]
    TooLong {
        /// Its position in the log, in microseconds.
        at: i64,
        /// Its size.
        bytes: usize,
    },
    /// A change of so many bytes is to be read, for which its reader has set aside less.
    #[error("a change takes {0} bytes of memory")]
    NeedsMemory(usize),
    /// The operation of a stored change is not known.
    #[error("the operation {0:?} of a stored change is unknown")]
    UnknownOp(String),
}

impl StoreError {
    /// Whether there was no connection free to ask with.
    pub fn is_busy(&self) -> bool {
        matches!(self, StoreError::Unavailable(error) if matches!(**error, DbError::PoolTimeout))
    }

    /// Whether it is about the statement, so that another one may succeed at once: it took too long, or too much.
    pub fn is_about_statement(&self) -> bool {
        match self {
            StoreError::Unavailable(error) => matches!(error.sqlstate(), Some("57014" | "53200")),
            StoreError::Unstorable(_) | StoreError::Failed(_) => true,
            _ => false,
        }
    }

    /// What an operator is told of it in one sentence, which has nothing of a setting's in it.
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
                // A value that is not what the statement says.
                DbError::Statement(_) if !error.is_disconnect() => StoreError::Failed(error),
                _ => StoreError::Unavailable(error.into()),
            };
        };
        // Classes of SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
        match code {
            // A standby, a primary that was one, or a database that somebody made read-only; tables that are not there or
            // not for us, which an operator may mend.
            "25006" | "42501" | "42P01" | "3F000" => StoreError::Unavailable(error.into()),
            "54000" | "54001" => StoreError::Unstorable(error),
            _ if error.is_disconnect() => StoreError::Unavailable(error.into()),
            _ => match code.get(..2) {
                // No connection or none allowed, statements forgotten by a pooler, deadlock, out of resources, not
                // in the right state, an operator's doing, the system's.
                Some("08" | "26" | "28" | "3D" | "40" | "53" | "55" | "57" | "58") => {
                    StoreError::Unavailable(error.into())
                }
                Some("22") => StoreError::Unstorable(error),
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
