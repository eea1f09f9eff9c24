//! Detects whether the database is still working on a statement, or the network has dropped the connection (G4, G8).
//!
//! A connection that a firewall, proxy or load balancer has forgotten stays open and silent, and TCP does not notice if
//! something on the way acknowledges data and then discards it. PostgreSQL ends every statement at its time limit, so a
//! statement that has not been answered some time after that is lost. But the limit has to allow for the largest push,
//! and nobody should wait that long for the result of a small one.
//!
//! Therefore, if a statement takes longer than usual, its server is asked on a new connection what it is running for
//! us. If none of that can be this statement, then either it never arrived or its answer never will. A slow database is
//! thus not given more work, and one whose network is still broken is waited for.

use super::Connector;
use super::connect::while_driven;
use super::error::ConnectError;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::SimpleQueryMessage;

/// Statements that take longer than this are investigated.
const HESITATION: Duration = Duration::from_secs(2);
/// Pause between two queries.
const PAUSE: Duration = Duration::from_millis(500);
/// Maximum age of a result that is reused.
const FRESH: Duration = Duration::from_millis(250);
/// Time limit for a new connection and its answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// How much longer than PostgreSQL's limit a statement is waited for.
const SLACK: Duration = Duration::from_secs(1);
/// How much before it was sent a statement may seem to have started: both times are measured late.
const EARLY: Duration = Duration::from_millis(250);

/// For how long the statements of our other connections to this database have been running, in seconds. They share the
/// application name of the one that asks. If the server does not track what sessions do (`track_activities`), or does
/// not show it to the role that ours has been set to, the asking session does not see itself as active either: then
/// there is a row with a null.
const RUNNING: &str = "
select case when pid <> pg_backend_pid() then greatest(extract(epoch from clock_timestamp() - query_start), 0)::float8 end
from pg_stat_activity
where application_name = current_setting('application_name') and datname = current_database()
  and case when pid = pg_backend_pid() then state is distinct from 'active' else state <> 'idle' end";

/// Watches statements that take long.
#[derive(Debug)]
pub(super) struct StallDetector {
    connector: Connector,
    /// Within this time, PostgreSQL sends something on a working connection.
    timeout: Duration,
    /// `None` if the database cannot be asked, because it is behind a pooler.
    latest: Option<Mutex<Option<Look>>>,
}

/// The result of one query; `None` inside if the database could not be asked, or does not tell.
#[derive(Clone, Debug)]
struct Look {
    at: Instant,
    running_for: Option<Vec<Duration>>,
}

impl StallDetector {
    /// Creates a detector for connections with this statement timeout. `asks`: whether the server can report what it is
    /// running for us.
    pub(super) fn new(connector: Connector, statement_timeout: Duration, asks: bool) -> StallDetector {
        StallDetector { connector, timeout: statement_timeout + SLACK, latest: asks.then(Mutex::default) }
    }

    /// Waits for a statement that is sent now. `None` once it is known that its answer will not come.
    pub(super) async fn in_time<T>(&self, running: impl Future<Output = T>) -> Option<T> {
        self.sent_at(Instant::now(), running).await
    }

    /// The same for a statement that was sent earlier.
    pub(super) async fn sent_at<T>(&self, sent: Instant, running: impl Future<Output = T>) -> Option<T> {
        let mut running = pin!(running);
        tokio::select! {
            biased;
            done = &mut running => Some(done),
            () = self.is_lost(sent) => None,
        }
    }

    /// Completes when a statement sent at that time must have been lost.
    async fn is_lost(&self, sent: Instant) {
        let Some(latest) = &self.latest else {
            return tokio::time::sleep_until(sent + self.timeout).await;
        };
        tokio::time::sleep_until(sent + HESITATION).await;
        while sent.elapsed() < self.timeout {
            if self.look(latest).await.shows_nothing_of(sent) {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    async fn look(&self, latest: &Mutex<Option<Look>>) -> Look {
        let mut latest = latest.lock().await;
        if let Some(look) = latest.as_ref().filter(|look| look.at.elapsed() < FRESH) {
            return look.clone();
        }
        let asked = Instant::now();
        let running = timeout(LOOK_TIMEOUT, self.ask()).await.unwrap_or(Err(ConnectError::Timeout));
        if let Err(error) = &running {
            tracing::debug!(
                error = error as &dyn std::error::Error,
                "cannot ask the database which of our statements are running"
            );
        }
        let look = Look { at: asked + asked.elapsed() / 2, running_for: running.ok().flatten() };
        latest.insert(look).clone()
    }

    /// Returns `None` if the database does not tell.
    async fn ask(&self) -> Result<Option<Vec<Duration>>, ConnectError> {
        let (client, mut driver) = self.connector.connect().await?;
        let answer = while_driven(&mut driver, client.simple_query(RUNNING)).await?;
        drop(client);
        // Only the termination message is left to send.
        let _ = driver.await;
        let running = answer.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0)),
            _ => None,
        });
        let running = running.map(|seconds| Duration::try_from_secs_f64(seconds?.parse().ok()?).ok());
        Ok(running.collect())
    }
}

impl Look {
    /// Returns true if nothing that the database was running can be a statement sent at that time.
    fn shows_nothing_of(&self, sent: Instant) -> bool {
        let Some(running_for) = &self.running_for else { return false };
        let waited = self.at.saturating_duration_since(sent);
        // A statement is sent in several messages; the last one counts as its start.
        !running_for.iter().any(|running| *running <= waited + EARLY && *running >= waited / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_statement_is_lost_if_nothing_runs_that_began_when_it_was_sent() {
        let at = Instant::now() + Duration::from_secs(60);
        let sent = at - Duration::from_secs(4);
        let look = |seconds: &[f32]| {
            let running_for = seconds.iter().map(|seconds| Duration::from_secs_f32(*seconds)).collect();
            Look { at, running_for: Some(running_for) }
        };
        assert!(look(&[]).shows_nothing_of(sent), "nothing runs");
        assert!(look(&[0.01, 0.5]).shows_nothing_of(sent), "what runs began later");
        assert!(look(&[9.0]).shows_nothing_of(sent), "what runs began earlier");
        assert!(!look(&[9.0, 3.9]).shows_nothing_of(sent), "this may be it");
        assert!(!look(&[4.1]).shows_nothing_of(sent), "times are measured late");
        assert!(!Look { at, running_for: None }.shows_nothing_of(sent), "nobody could be asked");
    }
}
