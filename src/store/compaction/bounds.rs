//! Limits on how much is trimmed at once, and on how long a step may take.

use super::CompactionError;
use super::connection::PIECE_TIMEOUT;
use tokio::time::timeout;

/// Maximum number of rows trimmed at once, and of their stored bytes.
pub(super) const ROWS_AT_ONCE: i64 = 2_000;
pub(super) const BYTES_AT_ONCE: i64 = 4 << 20;

/// Whether to wait while another session removes rows from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Yes,
    No,
}

impl Wait {
    /// Runs one step of a piece. A person may wait for it indefinitely; a replica gives up after a timeout, because the
    /// network may have dropped the connection.
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
