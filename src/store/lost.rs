//! Living through the loss of connections (G8).
//!
//! The pool hands out connections without asking whether they still work, because that would cost every request a
//! round trip. Once the database has been away all of them are dead, and each would fail a request that comes
//! after its return. So the first that turns out dead raises an alarm: what has been idle since before it is
//! tested before it is used, and what failed is done once more.
//!
//! A connection can also be dead and look alive, because a network has forgotten it: [`super::watch`] finds that
//! out. Then those that were idle are dropped without a test, each of which would take its time to fail.

use super::{Store, StoreError};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection may take to show that it works.
const TEST_TIMEOUT: Duration = Duration::from_millis(500);

/// What is known of the pool's connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Alarm(Arc<Mutex<Marks>>);

/// When connections of each kind were last found.
#[derive(Debug, Default)]
struct Marks {
    dead: Option<Instant>,
    useless: Option<Instant>,
}

/// What is thought of a connection that has been idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Trusted,
    Suspect,
    Useless,
}

impl Alarm {
    fn marks(&self) -> std::sync::MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection was found dead: the others have to show that they are not.
    fn raise(&self) {
        self.marks().dead = Some(Instant::now());
    }

    /// A connection was found to be of no use and not to say so: none that is idle now is worth a test.
    pub(super) fn raise_for_all(&self) {
        self.marks().useless = Some(Instant::now());
    }

    fn standing(&self, idle_for: Duration) -> Standing {
        let marks = self.marks();
        let was_there = |raised: Option<Instant>| raised.is_some_and(|raised| idle_for >= raised.elapsed());
        match (was_there(marks.useless), was_there(marks.dead)) {
            (true, _) => Standing::Useless,
            (false, true) => Standing::Suspect,
            (false, false) => Standing::Trusted,
        }
    }

    /// Lets the pool test the connections that are suspect.
    pub(super) fn watch(&self, options: PgPoolOptions) -> PgPoolOptions {
        let alarm = self.clone();
        options.before_acquire(move |connection, meta| {
            let alarm = alarm.clone();
            Box::pin(async move {
                Ok(match alarm.standing(meta.idle_for) {
                    Standing::Trusted => true,
                    Standing::Suspect => alarm.passes(connection).await,
                    Standing::Useless => false,
                })
            })
        })
    }

    async fn passes(&self, connection: &mut PgConnection) -> bool {
        match tokio::time::timeout(TEST_TIMEOUT, connection.ping()).await {
            Ok(answer) => answer.is_ok(),
            Err(_) => {
                self.raise_for_all();
                false
            }
        }
    }
}

/// An answer that will never come.
pub(super) fn overdue() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database's answer is overdue"))
}

impl Store {
    /// Does something that may be done twice; a second time if the connection was lost the first time.
    pub(super) async fn despite_loss<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        match attempt().await {
            Err(StoreError::Unavailable(error)) if is_loss(&error) => {
                self.pool.alarm().raise();
                attempt().await
            }
            Err(StoreError::Unavailable(error)) if is_read_only(&error) => {
                self.pool.alarm().raise_for_all();
                attempt().await
            }
            done => done,
        }
    }
}

/// Whether it was the connection that failed, and not what was said on it.
pub(super) fn is_loss(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        // Shut down, crashed, or lost its connection: what a dying server says to its clients.
        sqlx::Error::Database(error) => {
            matches!(error.code().as_deref(), Some("57P01" | "57P02" | "08000" | "08003" | "08006"))
        }
        _ => false,
    }
}

/// Whether the server is a standby, or has become one.
pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some("25006"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_idle_before_an_alarm_is_concerned() {
        let alarm = Alarm::default();
        let long = Duration::from_secs(3600);
        assert_eq!(alarm.standing(long), Standing::Trusted);
        alarm.raise();
        assert_eq!(alarm.standing(long), Standing::Suspect);
        alarm.raise_for_all();
        assert_eq!(alarm.standing(long), Standing::Useless);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(alarm.standing(Duration::ZERO), Standing::Trusted, "it came back to the pool afterwards");
    }
}
