//! Announces to the cluster what this replica has committed, and that it is there.
//!
//! Not in the transaction of a push, unless the cluster is quiet ([`super::commit_notifier`]): a commit with a NOTIFY
//! takes a cluster-wide lock while the WAL is flushed. One notification is in flight while the next one fills, so the
//! busier the replica, the more wake-ups share one, and the busier the database or the cluster, the longer it waits to
//! be sent ([`super::rate`]). A wake-up that is lost here is found by every replica's reconciler.

use super::channel_key::ChannelKeys;
use super::codec::{self, CHANNEL, NOTIFY, NOTIFY_TYPES};
use super::commit_notifier::CommitNotifier;
use super::presence::Presence;
use super::queue::Queue;
use super::rate::{NotificationCounter, RateLimiter};
use super::wakeup::Wakeup;
use crate::clock::Clock;
use crate::config::FanoutConfig;
use crate::db::{ConnectError, Connector};
use crate::store::{CommitNotice, Told};
use crate::telemetry::{Metrics, traces};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span};

/// Plans a prepared statement only once, and ends neither it nor the session early. Settings and their values.
const SETTINGS: [(&str, &str); 6] = [
    ("plan_cache_mode", "force_generic_plan"),
    // As long as it is waited for.
    ("statement_timeout", "3000"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("exit_on_error", "off"),
    ("default_transaction_isolation", r"read\ committed"),
];
/// Time limit for sending one batch: longer than [`NOTIFY`] waits for its lock.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// Pauses after failures: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Maximum time that a stopping replica tries to send its last wake-ups.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of wake-ups sent in one statement.
const MAX_BATCH: usize = 5_000;

/// Takes the wake-ups of pushes. Never blocks.
#[derive(Clone, Debug)]
pub struct Publisher {
    queue: Arc<Queue>,
    commits: Option<Arc<CommitNotifier>>,
    metrics: Arc<Metrics>,
}

/// The reasons why sending can fail.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("there is no connection")]
    Connect(#[from] ConnectError),
    #[error("the database refused")]
    Database(#[from] tokio_postgres::Error),
    #[error("no answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

impl SendError {
    /// The error type for traces: the SQLSTATE, if the database sent one.
    fn kind(&self) -> &str {
        match self {
            SendError::Connect(_) => "connection",
            SendError::Database(error) => error.code().map_or("connection", |code| code.code()),
            SendError::Timeout(_) => "timeout",
        }
    }
}

/// The dependencies of a publisher.
#[derive(Debug)]
pub struct PublisherConfig {
    /// Connects to the database.
    pub target: PublisherConnector,
    /// Signs notifications.
    pub keys: ChannelKeys,
    /// This replica's reports, sent along with notifications.
    pub presence: Presence,
    /// Counts the notifications of others, which use the budget too.
    pub received: NotificationCounter,
    /// Wakes of listeners per second that all notifications may cost.
    pub budget: u32,
}

impl Publisher {
    /// Creates a publisher that holds no more waiting wake-ups than the settings allow.
    pub fn new(config: &FanoutConfig, metrics: Arc<Metrics>) -> Publisher {
        Publisher { queue: Arc::new(Queue::new(config, metrics.clone())), commits: None, metrics }
    }

    /// Also lets pushes notify with their commits while the cluster is quiet.
    #[must_use]
    pub fn with_commits(
        self,
        config: &FanoutConfig,
        keys: ChannelKeys,
        presence: &Presence,
        received: NotificationCounter,
        clock: Clock,
    ) -> Publisher {
        let all = (received, presence.count());
        let commits = CommitNotifier::new(config, keys, all, self.metrics.clone(), clock);
        Publisher { commits: commits.map(Arc::new), ..self }
    }

    /// Returns the notification for a push's own transaction to send, if it should: the range is not known yet. Also
    /// returns the span of sending it, which ends when it is dropped.
    pub fn with_commit(&self, wakeup: &Wakeup) -> Option<(CommitNotice, Span)> {
        let notice = self.commits.as_ref()?.offer(wakeup, Instant::now())?;
        Some((notice, traces::send(CHANNEL, 1, &wakeup.pushes)))
    }

    /// Reports how that ended.
    pub fn told(&self, told: Told) {
        match (&self.commits, told) {
            (Some(commits), Told::After(took)) => commits.told(took, Instant::now()),
            (Some(commits), Told::Refused) => commits.refused(Instant::now()),
            _ => {}
        }
    }

    /// Queues a wake-up. Call it after the commit.
    pub fn publish(&self, wakeup: Wakeup) {
        self.queue.add(wakeup);
        self.queue.notify();
    }

    /// Sends queued wake-ups, and this replica's reports, until told to stop; then sends the remaining wake-ups, and
    /// goodbye.
    pub async fn run(self, config: PublisherConfig, stop: CancellationToken) {
        let PublisherConfig { target, keys, presence, received, budget } = config;
        let mut rate = RateLimiter::new(received, presence.count(), budget);
        let mut sender = Sender { target, keys, connection: None, metrics: self.metrics.clone() };
        let mut pause = BACKOFF.0;
        loop {
            let alone = tokio::select! {
                () = self.queue.filled() => false,
                () = presence.due() => true,
                () = stop.cancelled() => break,
            };
            // Before taking what is queued, so that wake-ups that arrive in the meantime go with it.
            if stop.run_until_cancelled(rate.wait()).await.is_none() {
                break;
            }
            let now = Instant::now();
            let said = if alone { Some(presence.message(now, false)) } else { presence.along(now) };
            if self.send_all(&mut sender, &mut rate, said, &stop).await {
                pause = BACKOFF.0;
                continue;
            }
            presence.unsaid();
            self.queue.notify();
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
        let goodbye = presence.message(Instant::now(), true);
        if tokio::time::timeout(FLUSH_TIMEOUT, self.flush(&mut sender, &goodbye)).await.is_err() {
            tracing::warn!("the last wake-ups could not be sent; other replicas will find what they announced");
        }
    }

    /// Sends everything queued, in several statements if there is much, and this replica's report. Returns false if
    /// something could not be sent; that stays queued. So does the rest when told to stop: the final flush does not
    /// keep to the rate.
    async fn send_all(
        &self,
        sender: &mut Sender,
        rate: &mut RateLimiter,
        mut said: Option<String>,
        stop: &CancellationToken,
    ) -> bool {
        let mut waiting = self.queue.take();
        while !waiting.is_empty() || said.is_some() {
            if stop.run_until_cancelled(rate.wait()).await.is_none() {
                waiting.into_iter().for_each(|wakeup| self.queue.add(wakeup));
                return false;
            }
            let rest = waiting.split_off(waiting.len().min(MAX_BATCH));
            rate.begin(Instant::now());
            match sender.send(said.take().as_deref(), &waiting).await {
                Ok(notifications) => rate.end(Instant::now(), notifications),
                Err(error) => {
                    let left = waiting.len() + rest.len();
                    tracing::warn!(error = &error as &dyn std::error::Error, waiting = left, "cannot publish");
                    waiting.into_iter().chain(rest).for_each(|wakeup| self.queue.add(wakeup));
                    return false;
                }
            }
            waiting = rest;
        }
        true
    }

    /// Sends the rest, and goodbye along with it.
    async fn flush(&self, sender: &mut Sender, goodbye: &str) {
        loop {
            let waiting = self.queue.take();
            match sender.send(Some(goodbye), &waiting).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot publish while stopping");
                    if waiting.is_empty() {
                        // The others will notice the silence.
                        return;
                    }
                    waiting.into_iter().for_each(|wakeup| self.queue.add(wakeup));
                    tokio::time::sleep(BACKOFF.0).await;
                }
            }
        }
    }
}

/// Connects a publisher to the database.
#[derive(Debug)]
pub struct PublisherConnector {
    connector: Connector,
    prepare: bool,
}

struct Sender {
    target: PublisherConnector,
    keys: ChannelKeys,
    connection: Option<Sending>,
    metrics: Arc<Metrics>,
}

/// A connection to send on.
struct Sending {
    client: Client,
    notify: Option<Statement>,
    _driving: AbortOnDropHandle<()>,
}

impl Sender {
    /// Sends this replica's report and these wake-ups; returns the number of notifications.
    async fn send(&mut self, said: Option<&str>, batch: &[Wakeup]) -> Result<usize, SendError> {
        let pushes: Vec<_> = batch.iter().flat_map(|wakeup| wakeup.pushes.iter().copied()).collect();
        let span = traces::send(CHANNEL, batch.len(), &pushes);
        let sending = tokio::time::timeout(SEND_TIMEOUT, self.try_send(said, batch)).instrument(span.clone());
        let sent = match sending.await {
            Ok(sent) => sent,
            Err(elapsed) => Err(elapsed.into()),
        };
        if let Err(error) = &sent {
            traces::failed(&span, error.kind());
            self.connection = None;
            self.metrics.publish_failures.inc();
        }
        sent
    }

    async fn try_send(&mut self, said: Option<&str>, batch: &[Wakeup]) -> Result<usize, SendError> {
        let payloads = codec::encode(&self.keys, said, batch);
        let Sending { client, notify, .. } = self.sending().await?;
        match notify {
            Some(notify) => client.query(notify, &[&CHANNEL, &payloads]).await?,
            None => {
                let [channel, list] = NOTIFY_TYPES;
                client.query_typed(NOTIFY, &[(&CHANNEL, channel), (&payloads, list)]).await?
            }
        };
        self.metrics.notifications_sent.inc_by(payloads.len() as u64);
        self.metrics.wakeups_published.inc_by(batch.len() as u64);
        Ok(payloads.len())
    }

    async fn sending(&mut self) -> Result<&Sending, SendError> {
        let sending = match self.connection.take().filter(|sending| !sending.client.is_closed()) {
            Some(sending) => sending,
            None => self.target.connect().await?,
        };
        Ok(self.connection.insert(sending))
    }
}

impl PublisherConnector {
    /// `prepare`: true if a statement can be prepared there and reused, which a pooler that shares connections does not
    /// allow.
    pub fn new(connector: Connector, prepare: bool) -> PublisherConnector {
        PublisherConnector { connector: if prepare { connector.with_settings(&SETTINGS) } else { connector }, prepare }
    }

    /// Returns the connector, for others that send as publishers do.
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }

    async fn connect(&self) -> Result<Sending, SendError> {
        let (client, driver) = self.connector.connect().await?;
        let driving = tokio::spawn(async move {
            // Whatever ends the connection also fails the statement that needed it.
            let _ = driver.await;
        });
        let _driving = AbortOnDropHandle::new(driving);
        let notify = match self.prepare {
            true => Some(client.prepare_typed(NOTIFY, &NOTIFY_TYPES).await?),
            false => None,
        };
        Ok(Sending { client, notify, _driving })
    }
}
