//! How much is trimmed at once, and how long a step may take.

use super::CompactionError;
use super::connection::PIECE_TIMEOUT;
use tokio::time::timeout;

/// Rows, and bytes of them as they are stored, that are trimmed at once.
pub(super) const ROWS_AT_ONCE: i64 = 2_000;
pub(super) const BYTES_AT_ONCE: i64 = 4 << 20;

/// Whether to wait while somebody else takes rows out of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Yes,
    No,
}

impl Wait {
    /// A step of a piece: a person may wait for it as long as it takes; a replica gives it up, as a network may have
    /// forgotten the connection.
    pub(super) async fn on<T>(
        self,
        step: impl Future<Output = Result<T, CompactionError>>,
    ) -> Result<T, CompactionError> {
        match self {
            Wait::Yes => step.await,
            Wait::No => timeout(PIECE_TIMEOUT, step).await?,
        }
    }
}
