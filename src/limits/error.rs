//! Why a user's push or pull does not go on.

use super::LimitReached;
use crate::store::StoreError;

/// Why a user's push or pull does not go on.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// A limit of the user is reached.
    #[error(transparent)]
    Reached(#[from] LimitReached),
    /// Pushes of this user that make apps take too long.
    #[error("pushes of this user that make apps take too long")]
    Busy,
    /// The store cannot say what the user has.
    #[error(transparent)]
    Store(#[from] StoreError),
}
