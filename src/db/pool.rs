//! Connections that are shared: `pool.query(&STATEMENT, &[…])` takes one, waits for the answer no longer than it can
//! come, and gives the connection back only once it has shown that it works (G6, G8).
//!
//! Through a pooler that shares its connections between transactions, each statement is a transaction of its own:
//! only so do its parts, and the time limits that go with it, reach the same server. They are sent together, and so take
//! one round trip as a statement alone does.

use super::connect::Connector;
use super::error::{ConnectError, DbError};
use super::guard::ConnectionGuard;
use super::health::PoolHealth;
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

/// How often a statement is done again whose connection was lost.
const RETRIES: usize = 2;
/// Pause between two attempts to connect while the database is away.
const PAUSE: Duration = Duration::from_millis(100);

/// How a pool is bounded.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Connections, at most.
    pub size: usize,
    /// How long a statement waits for one.
    pub acquire_timeout: Duration,
    /// How long a statement may run, as the server is told.
    pub statement_timeout: Duration,
    /// Settings of every session: names and values.
    pub settings: Vec<(&'static str, String)>,
    /// Whether statements are kept by the server for another time. If not, the settings go with each of them.
    pub prepare: bool,
}

/// How a pool is used at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Connections that are open, or being opened.
    pub open: usize,
    /// Those of them that nobody uses.
    pub idle: usize,
    /// Statements that wait for one.
    pub waiting: usize,
}

/// A bounded number of connections to one database. Clones share them.
#[derive(Clone)]
pub struct Pool {
    pool: managed::Pool<Manager>,
    /// One for each server.
    detectors: Arc<[Arc<StallDetector>]>,
    acquire_timeout: Duration,
    /// How a transaction begins, where each statement has to be one.
    begin: Option<Arc<str>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool whose connections are made when they are needed.
    pub fn new(connector: Connector, config: PoolConfig) -> Pool {
        Pool::over(vec![connector], config)
    }

    /// The same over several servers, of which any will do, and one does best: see [`Pool::prefer`].
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
        let pool = pool.expect("building fails only where timeouts are set without a runtime");
        Pool { pool, detectors, acquire_timeout: config.acquire_timeout, begin }
    }

    /// Runs a statement that may be run more than once, to its end. It is done again if its connection turns out to be
    /// lost, or one behind its server, or its server a standby.
    ///
    /// # Errors
    /// There is no connection, or the database failed the statement.
    pub async fn query(&self, sql: &'static Sql, parameters: Parameters<'_>) -> Result<Vec<Row>, DbError> {
        self.query_into(sql, parameters, &Vec::new).await
    }

    /// The same for whoever has something to do with each row while PostgreSQL still works on those behind it. If the
    /// statement has to be done again, it begins anew.
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
        // Whoever ends sessions ends many, and some only when their statement is over: the next one has to be tested.
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

    /// A connection; one that has shown that it works, if it is to be tested. While there is none to be had, the database
    /// is asked again and again.
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
                    let Some(detector) = self.detectors.get(connection.server).cloned() else {
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

    /// What is open now may lead to the wrong server: nothing that is idle is used again.
    pub fn distrust(&self) {
        self.health().found_useless();
    }

    /// Why the last attempt to connect failed, in a sentence for operators; none if it did not.
    pub fn failure(&self) -> Option<String> {
        self.pool.manager().failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the database may be in one of several places.
    pub fn has_choice(&self) -> bool {
        self.pool.manager().route.connectors().iter().any(Connector::has_choice)
    }

    /// Says whether one of its servers may be connected to, by its place in the list: all may until this is said.
    pub fn set_usable(&self, server: usize, is_usable: bool) {
        self.pool.manager().route.set_usable(server, is_usable);
    }

    /// Says which of its servers does best, by its place in the list. What is open is led there as well, bit by bit, if it may
    /// lead elsewhere.
    pub async fn prefer(&self, server: usize) {
        if self.pool.manager().route.prefer(server).await {
            self.distrust();
        }
    }

    /// Whether the server keeps statements, and so each connection is one of its own.
    pub fn is_direct(&self) -> bool {
        self.begin.is_none()
    }

    /// Connections, at most.
    pub fn max_size(&self) -> usize {
        self.pool.status().max_size
    }

    /// How the pool is used now.
    pub fn status(&self) -> PoolStatus {
        let status = self.pool.status();
        PoolStatus { open: status.size, idle: status.available, waiting: status.waiting }
    }

    /// Lends no more connections and closes those that are idle, within so much time. False if some were not closed by
    /// then: they end with the process.
    pub async fn close(&self, limit: Duration) -> bool {
        self.pool.close();
        let drivers = &self.pool.manager().drivers;
        drivers.close();
        timeout(limit, drivers.wait()).await.is_ok()
    }
}
