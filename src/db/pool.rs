//! Connections that are shared: `pool.query(&STATEMENT, &[…])` takes one, waits for the answer no longer than it can
//! come, and gives the connection back only once it has shown that it works (G6, G8).
//!
//! Through a pooler that shares its connections between transactions, each statement is a transaction of its own:
//! only so do its parts, and the time limits that go with it, reach the same server. They are sent together, and so take
//! one round trip as a statement alone does.

use super::connect::Connector;
use super::error::{ConnectError, DbError};
use super::health::{ConnectionState, PoolHealth};
use super::route::Route;
use super::stall::StallDetector;
use crate::telemetry::traces;
use deadpool::Runtime;
use deadpool::managed::{
    self, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult, TimeoutType, Timeouts,
};
use futures_util::TryStreamExt;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, RowStream, Statement};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// How long a connection may take to show that it works.
const TEST_TIMEOUT: Duration = Duration::from_millis(500);
/// The same, after its statement has ended.
const RETURN_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that are opened at the same time while that fails, at most: a database that comes back is not stormed.
const MAX_OPENING: usize = 2;
/// How often a statement is done again whose connection was lost.
const RETRIES: usize = 2;
/// Pause between two attempts to connect while the database is away.
const PAUSE: Duration = Duration::from_millis(100);

/// A statement, and the types of what it is given. A `static`, because it is prepared once on each connection.
#[derive(Debug)]
pub struct Sql {
    /// The text, with `$1` and so on.
    pub text: &'static str,
    /// The types of its parameters, so that nobody has to ask for them.
    pub types: &'static [Type],
}

/// What takes a statement's rows, one by one as they arrive.
pub trait RowSink {
    /// Takes the next one.
    fn take(&mut self, row: Row);
}

impl RowSink for Vec<Row> {
    fn take(&mut self, row: Row) {
        self.push(row);
    }
}

/// What a statement is given.
pub type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

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
            format!("begin{}", set.collect::<String>()).into()
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
        let manager = Manager {
            route,
            health: PoolHealth::default(),
            opening: Semaphore::new(MAX_OPENING),
            is_failing: AtomicBool::new(false),
            failure: Mutex::default(),
            drivers: TaskTracker::new(),
        };
        let pool = managed::Pool::builder(manager).max_size(config.size).queue_mode(QueueMode::Lifo);
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
            0 => self.acquire(tested).instrument(traces::waiting("wait for a connection")).await?,
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
                    let sent = tokio::time::Instant::now();
                    // There is one for each server that connections are made to.
                    let Some(detector) = self.detectors.get(connection.server).cloned() else {
                        return Err(DbError::Closed);
                    };
                    return Ok(ConnectionGuard { connection: Some(connection), detector, sent, answered: false });
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

/// Runs a statement as a transaction of its own.
async fn in_transaction<T: RowSink>(
    connection: &mut Connection,
    begin: &str,
    sql: &Sql,
    parameters: Parameters<'_>,
    sink: &impl Fn() -> T,
) -> Result<T, tokio_postgres::Error> {
    let typed = parameters.iter().copied().zip(sql.types.iter().cloned());
    let client = &connection.client;
    let query = async { collect(client.query_typed_raw(sql.text, typed).await?, sink()).await };
    // Sent in this order before the first is answered. After a statement that failed, the commit rolls back.
    let (begun, rows, committed) = tokio::join!(
        biased;
        client.batch_execute(begin),
        query,
        client.batch_execute("commit"),
    );
    begun?;
    let rows = rows?;
    committed?;
    Ok(rows)
}

/// Makes something of a statement's rows as they arrive.
async fn collect<T: RowSink>(rows: RowStream, mut sink: T) -> Result<T, tokio_postgres::Error> {
    let mut rows = pin!(rows);
    while let Some(row) = rows.try_next().await? {
        sink.take(row);
    }
    Ok(sink)
}

/// A connection of the pool's.
struct Connection {
    /// Which of the servers it leads to.
    server: usize,
    client: Client,
    driving: JoinHandle<()>,
    /// What has been prepared on it.
    statements: Vec<(&'static Sql, Statement)>,
    idle_since: Instant,
}

impl Connection {
    async fn query<T: RowSink>(
        &mut self,
        sql: &'static Sql,
        parameters: Parameters<'_>,
        sink: &impl Fn() -> T,
    ) -> Result<T, tokio_postgres::Error> {
        let statement = self.prepare(sql).await?;
        match self.run(&statement, parameters, sink).await {
            // Refused before anything was done.
            Err(error) if DbError::is_stale_statement(&error) => {
                self.statements.clear();
                let statement = self.prepare(sql).await?;
                self.run(&statement, parameters, sink).await
            }
            done => done,
        }
    }

    async fn run<T: RowSink>(
        &self,
        statement: &Statement,
        parameters: Parameters<'_>,
        sink: &impl Fn() -> T,
    ) -> Result<T, tokio_postgres::Error> {
        collect(self.client.query_raw(statement, parameters.iter().copied()).await?, sink()).await
    }

    async fn prepare(&mut self, sql: &'static Sql) -> Result<Statement, tokio_postgres::Error> {
        if let Some((_, statement)) = self.statements.iter().find(|(known, _)| std::ptr::eq(*known, sql)) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare_typed(sql.text, sql.types).await?;
        self.statements.push((sql, statement.clone()));
        Ok(statement)
    }

    async fn test(&self) -> bool {
        matches!(timeout(TEST_TIMEOUT, self.client.simple_query("")).await, Ok(Ok(_)))
    }
}

/// Makes the pool's connections, and tests them.
struct Manager {
    route: Route,
    health: PoolHealth,
    opening: Semaphore,
    /// Whether the last attempt to connect failed.
    is_failing: AtomicBool,
    /// Why it did, in a sentence for operators.
    failure: Mutex<Option<String>>,
    /// What drives the connections that are open.
    drivers: TaskTracker,
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = ConnectError;

    async fn create(&self) -> Result<Connection, ConnectError> {
        let _opening = match self.is_failing.load(Ordering::Relaxed) {
            true => self.opening.acquire().await.ok(),
            false => None,
        };
        // Boxed, because it is large and rare.
        let connected = Box::pin(self.route.connect()).await;
        self.is_failing.store(connected.is_err(), Ordering::Relaxed);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) =
            connected.as_ref().err().map(ConnectError::sentence);
        let (server, client, driver) = connected?;
        let driving = self.drivers.spawn(async move {
            // What ends the connection also fails the statement that it was needed for.
            let _ = driver.await;
        });
        Ok(Connection { server, client, driving, statements: Vec::new(), idle_since: Instant::now() })
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<ConnectError> {
        let gone = || Err(RecycleError::message("the connection is lost"));
        if connection.client.is_closed() {
            return gone();
        }
        match self.health.state(connection.idle_since) {
            ConnectionState::Trusted => Ok(()),
            ConnectionState::Suspect if connection.test().await => Ok(()),
            ConnectionState::Suspect | ConnectionState::Useless => {
                connection.driving.abort();
                gone()
            }
        }
    }
}

/// A connection on which one statement runs.
struct ConnectionGuard {
    connection: Option<Object<Manager>>,
    detector: Arc<StallDetector>,
    sent: tokio::time::Instant,
    answered: bool,
}

impl ConnectionGuard {
    fn connection(&mut self) -> Result<&mut Connection, DbError> {
        self.connection.as_deref_mut().ok_or(DbError::Closed)
    }

    fn has_answered(&mut self) {
        self.answered = true;
    }

    /// The pool is not to have it back. It does not say goodbye, which nobody might ever take.
    fn abandon(&mut self) {
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

/// Gives a connection back to its pool, whose place it keeps until its statement has ended: nobody waits for the answer
/// any more, but the database still works on it.
async fn give_back(mut connection: Object<Manager>, detector: Arc<StallDetector>, sent: tokio::time::Instant) {
    let ended = detector.sent_at(sent, connection.client.simple_query("")).await;
    let works = matches!(ended, Some(Ok(_))) && timeout(RETURN_TIMEOUT, connection.test()).await == Ok(true);
    connection.idle_since = Instant::now();
    if !works {
        Object::take(connection).driving.abort();
    }
}
