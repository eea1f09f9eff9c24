//! A connection pool: `pool.query(&STATEMENT, &[…])` takes a connection, waits for the answer no longer than it can
//! arrive, and returns the connection only once it has shown that it works (G6, G8).
//!
//! Through a pooler that shares its connections between transactions, each statement is a transaction of its own: only
//! then do all of its parts, and its time limits, reach the same server. They are sent together, and therefore take one
//! round trip, like a single statement.

use super::connect::Connector;
use super::error::{ConnectError, DbError};
use super::guard::ConnectionGuard;
use super::health::PoolHealth;
use super::identity::Admitted;
use super::manager::{Manager, TEST_TIMEOUT, in_transaction};
use super::route::Route;
use super::sql::{Parameters, RowSink, Sql};
use super::stall::StallDetector;
use crate::telemetry::traces;
use deadpool::Runtime;
use deadpool::managed::{self, Object, PoolError, QueueMode, TimeoutType, Timeouts};
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Row;
use tracing::Instrument;

/// Maximum number of retries of a statement whose connection was lost.
const RETRIES: usize = 2;
/// Pause between two attempts to connect while the database is unavailable.
const PAUSE: Duration = Duration::from_millis(100);

/// The settings of a pool.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Maximum number of connections.
    pub size: usize,
    /// How long a statement waits for a connection.
    pub acquire_timeout: Duration,
    /// The statement timeout, as set on the server.
    pub statement_timeout: Duration,
    /// Names and values of session settings.
    pub settings: Vec<(&'static str, String)>,
    /// True if the server keeps prepared statements. If not, the settings are sent with each statement.
    pub prepare: bool,
}

/// The current status of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Connections that are open or being opened.
    pub open: usize,
    /// Open connections that are not in use.
    pub idle: usize,
    /// Statements waiting for a connection.
    pub waiting: usize,
}

/// A bounded number of connections to one database. Clones share them.
#[derive(Clone)]
pub struct Pool {
    pool: managed::Pool<Manager>,
    /// One for each server.
    detectors: Arc<[Arc<StallDetector>]>,
    acquire_timeout: Duration,
    /// The start of a transaction, if each statement must be one.
    begin: Option<Arc<str>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Pool {
    /// Creates a pool; connections are made on demand.
    pub fn new(connector: Connector, config: PoolConfig) -> Pool {
        Pool::over(vec![connector], config)
    }

    /// Creates a pool over several equivalent servers, one of which may be preferred: see [`Pool::prefer`].
    pub fn over(connectors: Vec<Connector>, config: PoolConfig) -> Pool {
        let begin = || {
            let set = config.settings.iter().map(|(name, value)| format!("; set local {name} = {value}"));
            format!("begin isolation level read committed{}", set.collect::<String>()).into()
        };
        let begin = (!config.prepare).then(begin);
        let with_settings = |connector: Connector| match config.prepare {
            true => connector.with_settings(&config.settings),
            false => connector,
        };
        let route = Route::new(connectors.into_iter().map(with_settings).collect());
        let detector = |connector: &Connector| {
            Arc::new(StallDetector::new(connector.clone(), config.statement_timeout, config.prepare))
        };
        let detectors = route.connectors().iter().map(detector).collect();
        let pool = managed::Pool::builder(Manager::new(route)).max_size(config.size).queue_mode(QueueMode::Lifo);
        let pool = pool.runtime(Runtime::Tokio1).build();
        let pool = pool.expect("building fails only if timeouts are set without a runtime");
        Pool { pool, detectors, acquire_timeout: config.acquire_timeout, begin }
    }

    /// Runs an idempotent statement to its end. It is retried if its connection or one behind its server turns out to
    /// be lost, or its server to be a standby.
    ///
    /// # Errors
    /// There is no connection, or the database failed the statement.
    pub async fn query(&self, sql: &'static Sql, parameters: Parameters<'_>) -> Result<Vec<Row>, DbError> {
        self.query_into(sql, parameters, &Vec::new).await
    }

    /// The same with a sink, which processes each row while PostgreSQL is still working on the next. A retry starts
    /// over with a new sink.
    pub async fn query_into<T: RowSink>(
        &self,
        sql: &'static Sql,
        parameters: Parameters<'_>,
        begin: &impl Fn() -> T,
    ) -> Result<T, DbError> {
        let mut error = match self.query_once(sql, parameters, begin, false).await {
            Ok(rows) => return Ok(rows),
            Err(error) => error,
        };
        // Whatever ends one session usually ends many, some only after their statement: the next one must be tested.
        for _ in 0..RETRIES {
            match () {
                () if error.is_read_only() => self.health().found_useless(),
                () if error.is_disconnect() => self.health().found_dead(),
                () if error.is_lost_behind() => {}
                () => return Err(error),
            }
            let was_overdue = matches!(error, DbError::Overdue);
            error = match self.query_once(sql, parameters, begin, true).await {
                Ok(rows) => return Ok(rows),
                Err(error) if was_overdue => return Err(error),
                Err(error) => error,
            };
        }
        Err(error)
    }

    async fn query_once<T: RowSink>(
        &self,
        sql: &'static Sql,
        parameters: Parameters<'_>,
        sink: &impl Fn() -> T,
        tested: bool,
    ) -> Result<T, DbError> {
        let mut guard = match self.pool.status().available {
            0 => self.acquire(tested).instrument(traces::wait_span("wait for a connection")).await?,
            _ => self.acquire(tested).await?,
        };
        let detector = guard.detector.clone();
        let answer = match &self.begin {
            None => detector.in_time(guard.connection()?.query(sql, parameters, sink)).await,
            Some(begin) => detector.in_time(in_transaction(guard.connection()?, begin, sql, parameters, sink)).await,
        };
        match answer {
            Some(Ok(rows)) => {
                guard.has_answered();
                Ok(rows)
            }
            Some(Err(error)) => {
                let error = DbError::from(error);
                match error.is_disconnect() || error.is_read_only() {
                    true => guard.abandon(),
                    false => guard.has_answered(),
                }
                Err(error)
            }
            None => {
                guard.abandon();
                self.health().found_useless();
                Err(DbError::Overdue)
            }
        }
    }

    /// Takes a connection from the pool, and tests it if asked to. Keeps trying while none can be made.
    async fn acquire(&self, tested: bool) -> Result<ConnectionGuard, DbError> {
        let sent = Instant::now();
        let left = || self.acquire_timeout.saturating_sub(sent.elapsed());
        loop {
            let timeouts = Timeouts { wait: Some(left()), create: Some(left()), recycle: None };
            match self.pool.timeout_get(&timeouts).await {
                Ok(connection) if tested && left() > TEST_TIMEOUT && !connection.test().await => {
                    Object::take(connection).driving.abort();
                }
                Ok(connection) => {
                    // There is one for each server that connections are made to.
                    let Some(detector) = self.detectors.get(connection.origin.server).cloned() else {
                        return Err(DbError::Closed);
                    };
                    return Ok(ConnectionGuard::new(connection, detector));
                }
                Err(PoolError::Backend(error)) if error.is_passing() && left() > PAUSE => sleep(PAUSE).await,
                Err(PoolError::Backend(error)) => return Err(error.into()),
                Err(PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle)) => {
                    return Err(ConnectError::Timeout.into());
                }
                Err(PoolError::Timeout(TimeoutType::Wait)) => return Err(DbError::PoolTimeout),
                Err(PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_)) => {
                    return Err(DbError::Closed);
                }
            }
        }
    }

    fn health(&self) -> &PoolHealth {
        &self.pool.manager().health
    }

    /// Discards idle connections, because open ones may lead to the wrong server.
    pub fn distrust(&self) {
        self.health().found_useless();
    }

    /// Returns why the last attempt to connect failed, in a sentence for operators; `None` if it succeeded.
    pub fn failure(&self) -> Option<String> {
        self.pool.manager().failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns true if there are several places where the database may be.
    pub fn has_choice(&self) -> bool {
        self.route().connectors().iter().any(Connector::has_choice)
    }

    /// Sets what the URL of one of its servers, given by index, may lead to: initially, to any server. Connections that
    /// lead elsewhere are closed, each once its statement has ended.
    pub fn admit(&self, server: usize, admitted: Admitted) {
        self.route().admit(server, admitted);
        self.retain_suitable();
    }

    /// Returns true if one of its servers may be used: not if its URL turned out to lead to another one.
    pub fn is_usable(&self, server: usize) -> bool {
        self.route().is_usable(server)
    }

    fn route(&self) -> &Route {
        &self.pool.manager().route
    }

    /// Closes idle connections that lead where none should lead any more. Those in use are closed when they come back.
    fn retain_suitable(&self) {
        self.pool.retain(|connection, _| self.route().suits(&connection.origin));
    }

    /// Sets the preferred server, by index. Open connections that lead elsewhere are replaced, each once its statement
    /// has ended.
    pub async fn prefer(&self, server: usize) {
        if self.route().prefer(server).await {
            self.retain_suitable();
        }
    }

    /// Returns true if statements are prepared, and therefore each connection is a server session of its own.
    pub fn is_direct(&self) -> bool {
        self.begin.is_none()
    }

    /// Returns the maximum number of connections.
    pub fn max_size(&self) -> usize {
        self.pool.status().max_size
    }

    /// Returns the current status.
    pub fn status(&self) -> PoolStatus {
        let status = self.pool.status();
        PoolStatus { open: status.size, idle: status.available, waiting: status.waiting }
    }

    /// Closes the pool and its idle connections within this time. Returns false if some were still open by then; they
    /// end with the process.
    pub async fn close(&self, limit: Duration) -> bool {
        self.pool.close();
        let drivers = &self.pool.manager().drivers;
        drivers.close();
        timeout(limit, drivers.wait()).await.is_ok()
    }
}
