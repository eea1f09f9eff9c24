//! Connections in use.

use super::error::DbError;
use super::manager::{Connection, Manager};
use super::stall::StallDetector;
use deadpool::managed::Object;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long a connection may take to show that it works after its statement has ended.
const RETURN_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that is running one statement.
pub(super) struct ConnectionGuard {
    connection: Option<Object<Manager>>,
    pub(super) detector: Arc<StallDetector>,
    sent: Instant,
    answered: bool,
}

impl ConnectionGuard {
    /// Starts the time of its statement.
    pub(super) fn new(connection: Object<Manager>, detector: Arc<StallDetector>) -> ConnectionGuard {
        ConnectionGuard { connection: Some(connection), detector, sent: Instant::now(), answered: false }
    }

    pub(super) fn connection(&mut self) -> Result<&mut Connection, DbError> {
        self.connection.as_deref_mut().ok_or(DbError::Closed)
    }

    pub(super) fn has_answered(&mut self) {
        self.answered = true;
    }

    /// Discards the connection without closing it properly: nobody might ever receive that message.
    pub(super) fn abandon(&mut self) {
        if let Some(connection) = self.connection.take() {
            Object::take(connection).driving.abort();
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.idle_since = Instant::now();
        if !self.answered {
            tokio::spawn(give_back(connection, self.detector.clone(), self.sent));
        }
    }
}

/// Returns a connection to its pool once its statement has ended, and occupies its place until then: nobody waits for
/// the answer anymore, but the database is still working on it.
async fn give_back(mut connection: Object<Manager>, detector: Arc<StallDetector>, sent: Instant) {
    let ended = detector.sent_at(sent, connection.client.simple_query("")).await;
    let works = matches!(ended, Some(Ok(_))) && timeout(RETURN_TIMEOUT, connection.test()).await == Ok(true);
    connection.idle_since = Instant::now();
    if !works {
        Object::take(connection).driving.abort();
    }
}
