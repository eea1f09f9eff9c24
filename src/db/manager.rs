//! Creating, using and testing a pool's connections.

use super::error::{ConnectError, DbError};
use super::health::{ConnectionState, PoolHealth};
use super::route::{Connected, Origin, Route};
use super::sql::{Parameters, RowSink, Sql};
use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use futures_util::TryStreamExt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, RowStream, Statement};
use tokio_util::task::TaskTracker;

/// How long a connection may take to show that it works.
pub(super) const TEST_TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum number of concurrent connection attempts while they fail: a database that comes back is not stormed.
const MAX_OPENING: usize = 2;

/// Runs a statement as its own transaction.
pub(super) async fn in_transaction<T: RowSink>(
    connection: &mut Connection,
    begin: &str,
    sql: &Sql,
    parameters: Parameters<'_>,
    sink: &impl Fn() -> T,
) -> Result<T, tokio_postgres::Error> {
    let typed = parameters.iter().copied().zip(sql.types.iter().cloned());
    let client = &connection.client;
    let query = async { collect(client.query_typed_raw(sql.text, typed).await?, sink()).await };
    // Sent in this order before the first is answered. If the statement fails, the commit rolls back.
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

/// Feeds a statement's rows to a sink as they arrive.
async fn collect<T: RowSink>(rows: RowStream, mut sink: T) -> Result<T, tokio_postgres::Error> {
    let mut rows = pin!(rows);
    while let Some(row) = rows.try_next().await? {
        sink.take(row);
    }
    Ok(sink)
}

/// A pooled connection.
pub(super) struct Connection {
    pub(super) origin: Origin,
    pub(super) client: Client,
    pub(super) driving: JoinHandle<()>,
    /// The statements prepared on it.
    statements: Vec<(&'static Sql, Statement)>,
    pub(super) idle_since: Instant,
}

impl Connection {
    pub(super) async fn query<T: RowSink>(
        &mut self,
        sql: &'static Sql,
        parameters: Parameters<'_>,
        sink: &impl Fn() -> T,
    ) -> Result<T, tokio_postgres::Error> {
        let statement = self.prepare(sql).await?;
        match self.run(&statement, parameters, sink).await {
            // Rejected before anything was done.
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

    pub(super) async fn test(&self) -> bool {
        matches!(timeout(TEST_TIMEOUT, self.client.simple_query("")).await, Ok(Ok(_)))
    }
}

/// Creates the pool's connections, and tests them.
pub(super) struct Manager {
    pub(super) route: Route,
    pub(super) health: PoolHealth,
    opening: Semaphore,
    /// True if the last attempt to connect failed.
    is_failing: AtomicBool,
    /// The reason, in a sentence for operators.
    pub(super) failure: Mutex<Option<String>>,
    /// The tasks that drive open connections.
    pub(super) drivers: TaskTracker,
}

impl Manager {
    pub(super) fn new(route: Route) -> Manager {
        Manager {
            route,
            health: PoolHealth::default(),
            opening: Semaphore::new(MAX_OPENING),
            is_failing: AtomicBool::new(false),
            failure: Mutex::default(),
            drivers: TaskTracker::new(),
        }
    }
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
        let Connected { client, driver, origin } = connected?;
        let driving = self.drivers.spawn(async move {
            // Whatever ends the connection also fails the statement running on it.
            let _ = driver.await;
        });
        Ok(Connection { origin, client, driving, statements: Vec::new(), idle_since: Instant::now() })
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<ConnectError> {
        let gone = || Err(RecycleError::message("the connection is lost"));
        if connection.client.is_closed() {
            return gone();
        }
        let may_stay = self.route.suits(&connection.origin)
            && match self.health.state(connection.idle_since) {
                ConnectionState::Trusted => true,
                ConnectionState::Suspect => connection.test().await,
                ConnectionState::Useless => false,
            };
        if may_stay {
            return Ok(());
        }
        connection.driving.abort();
        gone()
    }
}
