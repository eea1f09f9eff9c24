//! Errors of trimming.

use crate::protocol::merge::UnreadableChange;
use crate::store::schema::SchemaError;

/// The reason that a log could not be trimmed, or a record not be read. Nothing is left half done.
#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    /// The database cannot be reached, or its schema is not one that this version can work with.
    #[error(transparent)]
    Connect(#[from] SchemaError),
    /// The database refused a statement.
    #[error("the database refused a statement")]
    Database(#[from] tokio_postgres::Error),
    /// The database did not answer in time.
    #[error("the database did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    /// A stored change cannot be read.
    #[error(transparent)]
    Unreadable(#[from] UnreadableChange),
    /// The operation of a stored change is not known.
    #[error("the operation {0:?} of a stored change is unknown")]
    UnknownOp(String),
}

impl CompactionError {
    /// Returns true if a stored change is at fault, rather than something temporary.
    pub(super) fn is_of_row(&self) -> bool {
        matches!(self, CompactionError::Unreadable(_) | CompactionError::UnknownOp(_))
    }
}
