//! Tells the cluster what this replica has committed.
//!
//! Not in the transaction of a push: a commit with a NOTIFY in it takes a lock on the whole cluster across the
//! flush of the WAL. One notification is in flight while the next one fills, so the busier the replica, the more
//! wake-ups share one, and the busier the cluster, the longer it waits to be sent ([`super::pace`]). A wake-up that is
//! lost here is found by every replica's reconciler.

use super::pace::{Heard, Pace};
use super::wakeup::{self, CHANNEL, MAX_PUSHES, Wakeup};
use crate::db::{ConnectError, Connector};
use crate::protocol::UserKey;
use crate::telemetry::{Metrics, traces};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

/// Stretches that one wake-up lists at most; more leave a gap that the reconciler closes.
const MAX_STRETCHES: usize = 16;
/// Sends one notification for each payload. It need not outlive a crash of the database, so nobody waits for its flush;
/// what it tells of has been flushed.
const NOTIFY: &str =
    "select set_config('synchronous_commit', 'off', true), pg_notify($1, payload) from unnest($2) as payload";
const NOTIFY_TYPES: [Type; 2] = [Type::TEXT, Type::TEXT_ARRAY];
/// What is prepared is planned once. Settings and their values.
const PLAN_ONCE: [(&str, &str); 1] = [("plan_cache_mode", "force_generic_plan")];
/// How long sending one batch may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// Pauses after failures: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a stopping replica tries to get rid of its last wake-ups.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// Wake-ups sent in one statement, at most.
const MAX_BATCH: usize = 5_000;

/// Where pushes leave their wake-ups. Never blocks.
#[derive(Clone, Debug)]
pub struct Publisher {
    queue: Arc<Queue>,
}

#[derive(Debug)]
struct Queue {
    pending: Mutex<Pending>,
    filled: Notify,
    capacity: usize,
    metrics: Arc<Metrics>,
}

type Key = (UserKey, Arc<str>, Option<Arc<str>>);

#[derive(Debug, Default)]
struct Pending {
    wakeups: HashMap<Key, Wakeup>,
}

/// What sending can fail with.
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
    /// What traces call it: the SQLSTATE, if the database said one.
    fn kind(&self) -> &str {
        match self {
            SendError::Connect(_) => "connection",
            SendError::Database(error) => error.code().map_or("connection", |code| code.code()),
            SendError::Timeout(_) => "timeout",
        }
    }
}

impl Publisher {
    /// A publisher that keeps at most `capacity` wake-ups waiting.
    pub fn new(capacity: usize, metrics: Arc<Metrics>) -> Publisher {
        let queue = Queue { pending: Mutex::default(), filled: Notify::new(), capacity, metrics };
        Publisher { queue: Arc::new(queue) }
    }

    /// Leaves a wake-up to be sent. Call it after the commit.
    pub fn publish(&self, wakeup: Wakeup) {
        self.queue.add(wakeup);
        self.queue.filled.notify_one();
    }

    /// Sends what is left here, until told to stop; then what is still there.
    pub async fn run(self, target: Target, heard: Heard, stop: CancellationToken) {
        let mut pace = Pace::new(heard);
        let mut sender = Sender { target, connection: None, metrics: self.queue.metrics.clone() };
        let mut pause = BACKOFF.0;
        loop {
            tokio::select! {
                () = self.queue.filled.notified() => {}
                () = stop.cancelled() => break,
            }
            loop {
                // Before what is there is taken: what comes meanwhile goes with it.
                pace.wait().await;
                let Some(batch) = self.queue.take() else { break };
                pace.begin();
                match sender.send(&batch).await {
                    Ok(()) => {
                        pause = BACKOFF.0;
                        pace.end(batch.len());
                    }
                    Err(error) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            waiting = batch.len(),
                            "cannot publish"
                        );
                        batch.into_iter().for_each(|wakeup| self.queue.add(wakeup));
                        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                            break;
                        }
                        pause = (pause * 2).min(BACKOFF.1);
                    }
                }
            }
        }
        if tokio::time::timeout(FLUSH_TIMEOUT, self.flush(&mut sender)).await.is_err() {
            tracing::warn!("the last wake-ups could not be sent; other replicas will find what they announced");
        }
    }

    async fn flush(&self, sender: &mut Sender) {
        while let Some(batch) = self.queue.take() {
            if let Err(error) = sender.send(&batch).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot publish while stopping; trying again");
                batch.into_iter().for_each(|wakeup| self.queue.add(wakeup));
                tokio::time::sleep(BACKOFF.0).await;
            }
        }
    }
}

impl Queue {
    fn add(&self, wakeup: Wakeup) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let full = pending.wakeups.len() >= self.capacity;
        let key = (wakeup.user, wakeup.app.clone(), wakeup.client.clone());
        match pending.wakeups.get_mut(&key) {
            Some(waiting) => merge(waiting, wakeup),
            None if full => self.metrics.wakeups_dropped.inc(),
            None => {
                pending.wakeups.insert(key, wakeup);
            }
        }
        self.metrics.publish_queue.set(pending.wakeups.len() as i64);
    }

    fn take(&self) -> Option<Vec<Wakeup>> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let batch: Vec<Wakeup> = if pending.wakeups.len() <= MAX_BATCH {
            pending.wakeups.drain().map(|(_, wakeup)| wakeup).collect()
        } else {
            let keys: Vec<Key> = pending.wakeups.keys().take(MAX_BATCH).cloned().collect();
            keys.iter().filter_map(|key| pending.wakeups.remove(key)).collect()
        };
        self.metrics.publish_queue.set(pending.wakeups.len() as i64);
        (!batch.is_empty()).then_some(batch)
    }
}

/// Adds a wake-up to one of the same device in the same app.
fn merge(waiting: &mut Wakeup, other: Wakeup) {
    let room = MAX_PUSHES.saturating_sub(waiting.pushes.len());
    waiting.pushes.extend(other.pushes.into_iter().take(room));
    waiting.tables = match (waiting.tables.take(), other.tables) {
        (Some(mut tables), Some(more)) => {
            for table in more {
                if !tables.contains(&table) {
                    tables.push(table);
                }
            }
            Some(tables)
        }
        _ => None,
    };
    for (from, to) in other.stretches {
        if let Some(before) = waiting.stretches.iter_mut().find(|(_, last)| *last == from) {
            before.1 = to;
        } else if waiting.stretches.len() < MAX_STRETCHES {
            waiting.stretches.push((from, to));
        }
    }
}

/// Where a publisher sends to.
#[derive(Debug)]
pub struct Target {
    connector: Connector,
    prepare: bool,
}

struct Sender {
    target: Target,
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
    async fn send(&mut self, batch: &[Wakeup]) -> Result<(), SendError> {
        let pushes: Vec<_> = batch.iter().flat_map(|wakeup| wakeup.pushes.iter().copied()).collect();
        let span = traces::send(CHANNEL, batch.len(), &pushes);
        let sending = tokio::time::timeout(SEND_TIMEOUT, self.try_send(batch)).instrument(span.clone());
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

    async fn try_send(&mut self, batch: &[Wakeup]) -> Result<(), SendError> {
        let payloads = wakeup::encode(batch);
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
        Ok(())
    }

    async fn sending(&mut self) -> Result<&Sending, SendError> {
        let sending = match self.connection.take().filter(|sending| !sending.client.is_closed()) {
            Some(sending) => sending,
            None => self.target.connect().await?,
        };
        Ok(self.connection.insert(sending))
    }
}

impl Target {
    /// `prepare`: whether a statement can be prepared there and used again; not behind a pooler that shares connections.
    pub fn new(connector: Connector, prepare: bool) -> Target {
        Target { connector: if prepare { connector.with_settings(&PLAN_ONCE) } else { connector }, prepare }
    }

    async fn connect(&self) -> Result<Sending, SendError> {
        let (client, driver) = self.connector.connect().await?;
        let driving = tokio::spawn(async move {
            // What ends the connection also fails the statement that it was needed for.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::traces::PushSpan;

    fn wakeup(client: &str, table: &str, stretch: (i64, i64)) -> Wakeup {
        Wakeup {
            user: UserKey::of("u"),
            app: "todo".into(),
            client: Some(client.into()),
            tables: Some(vec![table.into()]),
            stretches: vec![stretch],
            pushes: vec![],
        }
    }

    #[test]
    fn wake_ups_of_one_device_merge_and_keep_every_table_and_stretch() {
        let publisher = Publisher::new(10, Arc::default());
        for wakeup in [
            wakeup("a", "tasks", (0, 2)),
            wakeup("a", "lists", (2, 4)),
            wakeup("a", "tasks", (8, 10)),
            wakeup("b", "tasks", (4, 8)),
        ] {
            publisher.publish(wakeup);
        }
        let mut batch = publisher.queue.take().unwrap();
        batch.sort_by_key(|wakeup| wakeup.client.clone());
        assert_eq!(batch[0].tables, Some(vec!["tasks".into(), "lists".into()]));
        assert_eq!(batch[0].stretches, [(0, 4), (8, 10)]);
        assert_eq!(batch[1], wakeup("b", "tasks", (4, 8)));
        assert_eq!(publisher.queue.take(), None);
    }

    #[test]
    fn a_merged_wake_up_names_the_sampled_pushes_up_to_a_bound() {
        let publisher = Publisher::new(10, Arc::default());
        let span = |n: usize| PushSpan::parse(&format!("{:032x}-{:016x}", n + 1, n + 1)).unwrap();
        for n in 0..MAX_PUSHES * 2 {
            publisher.publish(Wakeup { pushes: vec![span(n)], ..wakeup("a", "tasks", (n as i64, n as i64 + 1)) });
        }
        let batch = publisher.queue.take().unwrap();
        assert_eq!(batch[0].pushes, (0..MAX_PUSHES).map(span).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_queue_counts_what_it_leaves_to_the_reconcilers() {
        let publisher = Publisher::new(2, Arc::default());
        for client in ["a", "b", "c", "a"] {
            publisher.publish(wakeup(client, "tasks", (0, 2)));
        }
        assert_eq!(publisher.queue.metrics.wakeups_dropped.get(), 1);
        assert_eq!(publisher.queue.take().unwrap().len(), 2);
    }
}
