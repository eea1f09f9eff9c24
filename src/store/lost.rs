//! Living through the loss of connections (G8).
//!
//! The pool hands out connections without asking whether they still work, because that would cost every request a
//! round trip. Once the database has been away all of them are dead, and each would fail a request that comes
//! after its return. So the first that turns out dead raises an alarm: what has been idle since before it is
//! tested before it is used, and what failed is done once more.

use super::{Store, StoreError};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection may take to show that it works.
const TEST_TIMEOUT: Duration = Duration::from_millis(500);

/// When a connection was last found dead.
#[derive(Clone, Debug, Default)]
pub(super) struct Alarm(Arc<Mutex<Option<Instant>>>);

impl Alarm {
    fn raise(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether what has been idle for so long was there before the alarm.
    fn suspects(&self, idle_for: Duration) -> bool {
        let raised = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        raised.is_some_and(|raised| idle_for >= raised.elapsed())
    }

    /// Lets the pool test the connections that are suspect.
    pub(super) fn watch(&self, options: PgPoolOptions) -> PgPoolOptions {
        let alarm = self.clone();
        options.before_acquire(move |connection, meta| {
            let suspect = alarm.suspects(meta.idle_for);
            Box::pin(async move { Ok(!suspect || works(connection).await) })
        })
    }
}

async fn works(connection: &mut PgConnection) -> bool {
    tokio::time::timeout(TEST_TIMEOUT, connection.ping()).await.is_ok_and(|answer| answer.is_ok())
}

impl Store {
    /// Does something that may be done twice; a second time if the connection was lost the first time.
    pub(super) async fn despite_loss<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        match attempt().await {
            Err(StoreError::Unavailable(error)) if is_loss(&error) => {
                self.alarm.raise();
                attempt().await
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
