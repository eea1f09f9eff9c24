//! The pool as statements see it: `query.fetch_all(&self.pool)` takes a connection, waits for the answer no longer
//! than it can come, and gives the connection back only once it has shown that it works (G6, G8).
//!
//! Through a pooler that shares its connections between transactions, each statement is a transaction of its own:
//! only so do its parts, and the time limits that go with it, reach the same server. It costs three more round
//! trips, to a pooler nearby.

use super::StoreError;
use super::lost::{Alarm, is_loss, is_read_only, overdue};
use super::primary::Servers;
use super::watch::Watch;
use crate::config::Config;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{AssertSqlSafe, Connection, Either, Error, Execute, Executor, PgConnection, PgPool, Postgres, SqlStr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long a connection may take to show that it works after its statement has ended.
const RETURN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a statement waits for locks, such as those of another replica's push to the same log.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a transaction may do nothing.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);

/// How statements are planned: once for each connection, and by indexes.
///
/// To plan a push takes PostgreSQL longer than to store it. Left to itself it plans each anew, because it believes that a
/// plan for the arrays at hand is cheaper than one for any. A plan that is kept must not depend on how much was stored
/// when it was made: on a table that was small then it would read all of it, whatever has been added.
const PLANS: [(&str, &str); 2] = [("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off")];

type Answer = Either<PgQueryResult, PgRow>;

/// The connections of the store.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    pool: PgPool,
    alarm: Alarm,
    watch: Watch,
    servers: Arc<Servers>,
    /// How a transaction begins, where each statement has to be one.
    begin: Option<Arc<str>>,
}

impl Connections {
    /// Connections that are made when they are needed.
    pub(super) fn new(config: &Config) -> Result<Connections, StoreError> {
        let limits = limits(config.database_statement_timeout_ms);
        let name = format!("mana-sync {}", config.replica_name());
        let servers = Servers::parse(config.database.database_url.expose(), |options| {
            let options = options.application_name(&name);
            if config.database_prepare {
                options.options(limits.clone()).options(PLANS)
            } else {
                // Poolers refuse what they cannot keep track of.
                options.extra_float_digits(None)
            }
        })?;
        let alarm = Alarm::default();
        let pool = alarm
            .watch(PgPoolOptions::new())
            .max_connections(config.database_pool_size)
            .acquire_timeout(config.database_acquire_timeout_ms)
            .test_before_acquire(false)
            .connect_lazy_with(servers.first());
        let begin = || {
            let set: Vec<String> = limits.iter().map(|(name, value)| format!("; set local {name} = {value}")).collect();
            format!("begin{}", set.concat()).into()
        };
        let begin = (!config.database_prepare).then(begin);
        let watch = Watch::new(pool.clone(), config.database_statement_timeout_ms, config.database_prepare);
        Ok(Connections { pool, alarm, watch, servers: Arc::new(servers), begin })
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(super) fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// Runs a statement to its end.
    async fn run<'q>(&self, statement: impl Execute<'q, Postgres> + 'q) -> Result<Vec<Answer>, Error> {
        let mut lent = self.lend().await?;
        let answer = match &self.begin {
            None => self.watch.in_time(lent.connection()?.fetch_many(statement).try_collect()).await,
            Some(begin) => self.watch.in_time(alone(lent.connection()?, begin, Once(statement))).await,
        };
        match answer {
            Some(Ok(answer)) => {
                lent.has_answered();
                Ok(answer)
            }
            Some(Err(error)) => {
                self.failed(lent, &error).await;
                Err(error)
            }
            None => {
                lent.is_useless();
                self.alarm.raise_for_all();
                Err(overdue())
            }
        }
    }

    /// A connection. While there is none, the primary is looked for, if it can be in several places.
    async fn lend(&self) -> Result<Lent, Error> {
        let acquiring = self.pool.acquire();
        let connection = tokio::select! {
            connection = acquiring => connection,
            never = self.servers.keep_looking(&self.pool) => match never {},
        }?;
        Ok(Lent { connection: Some(connection), watch: self.watch.clone(), sent: Instant::now(), answered: false })
    }

    async fn failed(&self, mut lent: Lent, error: &Error) {
        if is_loss(error) || is_read_only(error) {
            lent.is_useless();
            self.servers.look(&self.pool).await;
        } else {
            lent.has_answered();
        }
    }
}

/// What every session of ours is held to: settings and their values, in milliseconds.
fn limits(statement_timeout: Duration) -> Vec<(&'static str, String)> {
    let limits = [
        ("statement_timeout", statement_timeout),
        ("lock_timeout", LOCK_TIMEOUT.min(statement_timeout)),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
    ];
    limits.map(|(name, time)| (name, time.as_millis().to_string())).to_vec()
}

/// Runs a statement as a transaction of its own.
async fn alone<'q>(
    connection: &mut PgConnection,
    begin: &str,
    statement: impl Execute<'q, Postgres> + 'q,
) -> Result<Vec<Answer>, Error> {
    // Made of settings' names and numbers only.
    let mut transaction = connection.begin_with(AssertSqlSafe(begin.to_owned())).await?;
    let answer = transaction.fetch_many(statement).try_collect().await?;
    transaction.commit().await?;
    Ok(answer)
}

/// A connection on which one statement runs.
struct Lent {
    connection: Option<PoolConnection<Postgres>>,
    watch: Watch,
    sent: Instant,
    answered: bool,
}

impl Lent {
    fn connection(&mut self) -> Result<&mut PgConnection, Error> {
        self.connection.as_deref_mut().ok_or(Error::PoolClosed)
    }

    fn has_answered(&mut self) {
        self.answered = true;
    }

    /// The pool is not to have it back. There is no farewell, which nobody might ever take.
    fn is_useless(&mut self) {
        drop(self.connection.take().map(PoolConnection::detach));
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            tokio::spawn(give_back(connection, self.watch.clone(), self.sent, self.answered));
        }
    }
}

/// Gives a connection back to its pool, whose place it keeps until its statement has ended: nobody may wait for the
/// answer any more, but the database still works on it.
async fn give_back(mut connection: PoolConnection<Postgres>, watch: Watch, sent: Instant, answered: bool) {
    if !answered && !matches!(watch.sent_at(sent, connection.ping()).await, Some(Ok(()))) {
        drop(connection.detach());
        return;
    }
    // What does not come back in time is dropped.
    let _ = timeout(RETURN_TIMEOUT, connection.return_to_pool()).await;
}

/// A statement that is not to be kept by the server for another time.
struct Once<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Once<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, sqlx::error::BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

impl<'c> Executor<'c> for &Connections {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Answer, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let connections = self.clone();
        let answer = async move { Ok::<_, Error>(stream::iter(connections.run(query).await?.into_iter().map(Ok))) };
        stream::once(answer).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let connections = self.clone();
        Box::pin(async move {
            let answer = connections.run(query).await?;
            Ok(answer.into_iter().find_map(|step| step.right()))
        })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        let pool = self.pool.clone();
        Box::pin(async move { pool.acquire().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        let pool = self.pool.clone();
        Box::pin(async move { pool.acquire().await?.describe(sql).await })
    }
}
