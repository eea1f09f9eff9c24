//! Living through the loss of connections (G8).
//!
//! The pool hands out connections without asking whether they still work, because that would cost every request a
//! round trip. Once the database has been away all of them are dead, and each would fail a request that comes
//! after its return. So the first that turns out dead raises an alarm: what has been idle since before it is
//! tested before it is used, and what failed is done once more.
//!
//! A connection can also be dead and look alive: a network forgets it, and nobody says so. PostgreSQL ends every
//! statement at its time limit, so a statement that has neither ended nor failed a while later is on such a
//! connection. The pool must not wait for it: whoever gives up a statement half-way leaves a connection that has to
//! show, before it is used again, that it works.

use super::{Store, StoreError};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection};
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection may take to show that it works.
const TEST_TIMEOUT: Duration = Duration::from_millis(500);

/// How much longer than PostgreSQL allows a statement is waited for.
const SLACK: Duration = Duration::from_secs(1);
/// For so long after a statement was given up, connections that come back to the pool are tested: that of the
/// statement is among them.
const AFTER_GIVING_UP: Duration = Duration::from_millis(500);

/// What is known of the pool's connections.
#[derive(Clone, Debug)]
pub(super) struct Alarm {
    marks: Arc<Mutex<Marks>>,
    /// Within this time PostgreSQL says something on a connection that works.
    patience: Duration,
}

#[derive(Debug, Default)]
struct Marks {
    /// When a connection was last found dead.
    found_dead: Option<Instant>,
    /// When a statement was last given up before it had ended.
    given_up: Option<Instant>,
}

impl Alarm {
    /// An alarm for connections on which a statement may run for so long.
    pub(super) fn new(statement_timeout: Duration) -> Alarm {
        Alarm { marks: Arc::default(), patience: statement_timeout + SLACK }
    }

    fn mark(&self, mark: impl FnOnce(&mut Marks)) {
        mark(&mut self.marks.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn raise(&self) {
        self.mark(|marks| marks.found_dead = Some(Instant::now()));
    }

    /// Whether what has been idle for so long was there before the alarm.
    fn suspects(&self, idle_for: Duration) -> bool {
        let raised = self.marks.lock().unwrap_or_else(PoisonError::into_inner).found_dead;
        raised.is_some_and(|raised| idle_for >= raised.elapsed())
    }

    /// How long a connection that comes back to the pool now may take to show that it works; none if it need not.
    fn test_returned(&self) -> Option<Duration> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |mark: Option<Instant>| mark.is_some_and(|mark| mark.elapsed() < AFTER_GIVING_UP);
        if is_recent(marks.found_dead) {
            Some(TEST_TIMEOUT)
        } else {
            // The answer may have to wait for the end of the statement.
            is_recent(marks.given_up).then_some(self.patience)
        }
    }

    /// Lets the pool test the connections that are suspect.
    pub(super) fn watch(&self, options: PgPoolOptions) -> PgPoolOptions {
        let (before, after) = (self.clone(), self.clone());
        options
            .before_acquire(move |connection, meta| {
                let suspect = before.suspects(meta.idle_for);
                Box::pin(async move { Ok(!suspect || works(connection, TEST_TIMEOUT).await) })
            })
            .after_release(move |connection, _| {
                let test = after.test_returned();
                Box::pin(async move {
                    match test {
                        // An error, unlike a no, makes the pool drop the connection without a farewell, which nobody
                        // might ever take.
                        Some(within) if !works(connection, within).await => Err(overdue()),
                        _ => Ok(true),
                    }
                })
            })
    }

    /// Runs a statement, and takes it for lost once PostgreSQL must have ended it.
    async fn in_time<T>(&self, doing: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let mut doing = pin!(tokio::time::timeout(self.patience, doing));
        // Goes before the statement does, whose connection is then on its way back to the pool.
        let given_up = GivenUp(Some(self));
        match doing.as_mut().await {
            Ok(done) => {
                given_up.no();
                done
            }
            Err(_) => {
                self.raise();
                Err(StoreError::Unavailable(overdue().into()))
            }
        }
    }
}

/// Marks that a statement was given up, unless told that it was not.
struct GivenUp<'a>(Option<&'a Alarm>);

impl GivenUp<'_> {
    fn no(mut self) {
        self.0 = None;
    }
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(alarm) = self.0 {
            alarm.mark(|marks| marks.given_up = Some(Instant::now()));
        }
    }
}

fn overdue() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database's answer is overdue"))
}

async fn works(connection: &mut PgConnection, within: Duration) -> bool {
    tokio::time::timeout(within, connection.ping()).await.is_ok_and(|answer| answer.is_ok())
}

impl Store {
    /// Does something that may be done twice; a second time if the connection was lost the first time.
    pub(super) async fn despite_loss<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        match self.alarm.in_time(attempt()).await {
            Err(StoreError::Unavailable(error)) if is_loss(&error) => {
                self.alarm.raise();
                self.alarm.in_time(attempt()).await
            }
            done => done,
        }
    }
}

fn is_loss(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        // Shut down, crashed, or lost its connection: what a dying server says to its clients.
        sqlx::Error::Database(error) => {
            matches!(error.code().as_deref(), Some("57P01" | "57P02" | "08000" | "08003" | "08006"))
        }
        _ => false,
    }
}
