//! A connection for a single task.

use super::connect::Connector;
use super::error::{ConnectError, is_disconnect};
use super::sql::make_orderly;
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::task::AbortOnDropHandle;

/// How many sessions are opened at most, if the server ends them before they can be used.
const SESSIONS: usize = 100;
/// Timeout for closing a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection for a single task. Closed on drop.
pub struct Session {
    client: Client,
    driving: AbortOnDropHandle<()>,
}

impl std::ops::Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Session {
    /// Closes it, and lets the server know.
    pub async fn close(self) {
        drop(self.client);
        // Only the termination message is left to send.
        let _ = timeout(CLOSE_TIMEOUT, self.driving).await;
    }
}

impl Connector {
    /// Opens a connection that is driven by its own task.
    ///
    /// # Errors
    /// As for [`Connector::connect`].
    pub async fn open(&self) -> Result<Session, ConnectError> {
        let (client, driver) = self.connect().await?;
        let driving = tokio::spawn(async move {
            // Whatever ends the connection also fails the statement running on it.
            let _ = driver.await;
        });
        Ok(Session { client, driving: AbortOnDropHandle::new(driving) })
    }

    /// The same, with a session that is independent of all defaults ([`make_orderly`]). Whoever limits idle sessions to
    /// milliseconds ends some of them before that on a busy machine; then the next one is tried.
    ///
    /// # Errors
    /// As for [`Connector::connect`]; or the server refuses the settings, or ended every session.
    pub async fn open_orderly(&self) -> Result<Session, ConnectError> {
        let mut attempts = 1;
        loop {
            let session = self.open().await?;
            match make_orderly(&session).await {
                Ok(()) => return Ok(session),
                Err(error) if is_disconnect(&error) && attempts < SESSIONS => attempts += 1,
                Err(error) => return Err(ConnectError::Refused(error)),
            }
        }
    }
}
