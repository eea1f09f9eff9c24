//! Errors of the limits.

use super::LimitReached;
use crate::store::StoreError;

/// The reason that a user's push or pull was stopped.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The user has reached a limit.
    #[error(transparent)]
    Reached(#[from] LimitReached),
    /// Pushes of this user that create apps take too long.
    #[error("pushes of this user that create apps take too long")]
    Busy,
    /// The store cannot read the user's usage.
    #[error(transparent)]
    Store(#[from] StoreError),
}
