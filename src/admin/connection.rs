//! Connections of the admin port's own, opened on demand and closed when idle: operators need them most when the pool
//! is exhausted, and their queries hold up nobody else.

use crate::db::{ConnectError, Connector, Session};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, error::Elapsed, timeout, timeout_at};

/// Maximum time for connecting, and for a statement; [`LazyConnection::within`] limits what a caller waits in all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const LIMITS: &str = "set statement_timeout = '10s'; set lock_timeout = '2s'";
const READ_ONLY: &str = "set default_transaction_read_only = on";
/// Pause after a failed attempt: those waiting behind it get its error at once.
const PAUSE: Duration = Duration::from_secs(1);
/// Maximum time that an unused connection stays open.
const IDLE: Duration = Duration::from_secs(60);

/// A connection that is opened on demand.
pub struct LazyConnection {
    connector: Connector,
    /// The schema of a bucket, if it is for one.
    schema: Option<String>,
    may_write: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// When connecting last failed, and why.
    failed: Option<(Instant, Arc<ConnectionError>)>,
}

struct Open {
    session: Arc<Session>,
    used: Instant,
}

/// The reasons why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("cannot connect to the database")]
    Connect(#[from] ConnectError),
    #[error("the database refused the session settings")]
    Database(#[from] tokio_postgres::Error),
    #[error("the database did not answer in time")]
    Timeout(#[from] Elapsed),
    /// The last attempt failed; it may have been a moment ago, for another caller.
    #[error(transparent)]
    Failed(Arc<ConnectionError>),
}

impl std::fmt::Debug for LazyConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LazyConnection").field(&self.connector).finish()
    }
}

impl LazyConnection {
    /// Creates a read-only connection, not connected yet.
    pub fn new(connector: Connector) -> LazyConnection {
        LazyConnection { connector, schema: None, may_write: false, state: Mutex::default() }
    }

    /// Creates a connection that may write.
    pub fn writing(connector: Connector) -> LazyConnection {
        LazyConnection { may_write: true, ..LazyConnection::new(connector) }
    }

    /// Creates a read-only connection to a bucket.
    pub fn of_bucket(connector: Connector, schema: String) -> LazyConnection {
        LazyConnection { schema: Some(schema), ..LazyConnection::new(connector) }
    }

    /// Runs statements on the connection, within this time in all. A connection on which they took longer is closed:
    /// the network may have forgotten it, which nothing else would notice.
    pub async fn within<T, E: From<ConnectionError>>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&Session) -> Result<T, E>,
    ) -> Result<T, E> {
        let deadline = Instant::now() + limit;
        let session = timeout_at(deadline, self.client()).await.map_err(ConnectionError::from)??;
        match timeout_at(deadline, work(&session)).await {
            Ok(done) => done,
            Err(elapsed) => {
                self.state.lock().await.open.take_if(|open| Arc::ptr_eq(&open.session, &session));
                Err(ConnectionError::from(elapsed).into())
            }
        }
    }

    /// Returns the connection, reopening it if there is none or the last one has ended. One attempt at a time: a caller
    /// that waits for a failing attempt does not have to wait for another.
    async fn client(&self) -> Result<Arc<Session>, ConnectionError> {
        let mut state = self.state.lock().await;
        if let Some(open) = state.open.as_mut().filter(|open| !open.session.is_closed()) {
            open.used = Instant::now();
            return Ok(open.session.clone());
        }
        state.open = None;
        if let Some((_, why)) = state.failed.as_ref().filter(|(at, _)| at.elapsed() < PAUSE) {
            return Err(ConnectionError::Failed(why.clone()));
        }
        let connected = timeout(CONNECT_TIMEOUT, self.connect()).await.map_err(ConnectionError::from);
        match connected.and_then(|connected| connected) {
            Ok(session) => {
                let session = Arc::new(session);
                *state = State { open: Some(Open { session: session.clone(), used: Instant::now() }), failed: None };
                Ok(session)
            }
            Err(error) => {
                let error = Arc::new(error);
                state.failed = Some((Instant::now(), error.clone()));
                Err(ConnectionError::Failed(error))
            }
        }
    }

    async fn connect(&self) -> Result<Session, ConnectionError> {
        let session = self.connector.open_orderly().await?;
        session.batch_execute(LIMITS).await?;
        if !self.may_write {
            session.batch_execute(READ_ONLY).await?;
        }
        if let Some(schema) = &self.schema {
            // Our own names: letters, digits and an underscore.
            session.batch_execute(&format!("set search_path = {schema}")).await?;
        }
        Ok(session)
    }

    /// Closes the connection: the next user opens one, perhaps to another host.
    pub async fn close(&self) {
        self.state.lock().await.open = None;
    }

    /// Closes the connection if it has not been used for a while.
    pub async fn close_if_idle(&self) {
        let mut state = self.state.lock().await;
        state.open.take_if(|open| open.used.elapsed() > IDLE);
    }
}
