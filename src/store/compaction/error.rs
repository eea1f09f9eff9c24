//! Why a log could not be trimmed.

use crate::protocol::merge::UnreadableChange;
use crate::store::schema::SchemaError;

/// Why a log could not be trimmed, or a record not be read. Nothing of it is half done.
#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    #[error("the database cannot be reached")]
    Connect(#[from] SchemaError),
    #[error("the database refused a statement")]
    Database(#[from] tokio_postgres::Error),
    #[error("the database did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    Unreadable(#[from] UnreadableChange),
    #[error("the operation {0:?} of a stored change is unknown")]
    UnknownOp(String),
}
