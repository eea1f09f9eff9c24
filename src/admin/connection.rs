//! Connections of the admin surface's own, made when somebody asks something and closed when nobody does: operators look
//! when the pool is exhausted, and nobody else has to wait for what they ask.

use crate::db::{ConnectError, Connector, Session};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, error::Elapsed, timeout};

/// How long connecting may take, and a statement.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const LIMITS: &str = "set statement_timeout = '10s'; set lock_timeout = '2s'; set default_transaction_read_only = on";
/// How long a connection that nobody uses stays open.
const IDLE: Duration = Duration::from_secs(60);

/// A connection that is made when it is needed.
pub struct LazyConnection {
    connector: Connector,
    /// The schema of a bucket, if it is for one.
    schema: Option<String>,
    open: Mutex<Option<Open>>,
}

struct Open {
    session: Arc<Session>,
    used: Instant,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("the database cannot be connected to")]
    Connect(#[from] ConnectError),
    #[error("the database refused the settings of a session")]
    Database(#[from] tokio_postgres::Error),
    #[error("the database does not answer in time")]
    Timeout(#[from] Elapsed),
}

impl std::fmt::Debug for LazyConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LazyConnection").field(&self.connector).finish()
    }
}

impl LazyConnection {
    /// Not connected yet.
    pub fn new(connector: Connector) -> LazyConnection {
        LazyConnection { connector, schema: None, open: Mutex::default() }
    }

    /// The same, to what a bucket has.
    pub fn of_bucket(connector: Connector, schema: String) -> LazyConnection {
        LazyConnection { schema: Some(schema), ..LazyConnection::new(connector) }
    }

    /// The connection, made anew if there is none or the last one has ended.
    pub async fn client(&self) -> Result<Arc<Session>, ConnectionError> {
        let mut open = self.open.lock().await;
        if let Some(open) = open.as_mut().filter(|open| !open.session.is_closed()) {
            open.used = Instant::now();
            return Ok(open.session.clone());
        }
        *open = None;
        let session = Arc::new(timeout(CONNECT_TIMEOUT, self.connect()).await??);
        *open = Some(Open { session: session.clone(), used: Instant::now() });
        Ok(session)
    }

    async fn connect(&self) -> Result<Session, ConnectionError> {
        let session = self.connector.open().await?;
        session.batch_execute(LIMITS).await?;
        if let Some(schema) = &self.schema {
            // Ours: letters, digits and an underscore.
            session.batch_execute(&format!("set search_path = {schema}")).await?;
        }
        Ok(session)
    }

    /// Closes the connection if nobody has used it for a while.
    pub async fn close_if_idle(&self) {
        let mut open = self.open.lock().await;
        if open.as_ref().is_some_and(|open| open.used.elapsed() > IDLE) {
            *open = None;
        }
    }
}
