//! Readers that ask again and again though there is nothing new (G6).
//!
//! Clients exist that poll without a pause, and ask only more often where they are refused. So a reader that was answered
//! "nothing new" more than a few times a second has its next such answer held back: until something is stored that it
//! would be sent, which the hub knows, and for a second at most. A held request has no connection to the database and no
//! page in memory; there are only so many of them, and further ones are answered at once.

use super::bucket::{Bucket, Refill};
use crate::clock::Clock;
use crate::hub::{Hub, Interest, Membership};
use crate::protocol::Log;
use moka::sync::Cache;
use prometheus::IntCounter;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often a reader is told at once that there is nothing new.
const EMPTY_ANSWERS: Refill = Refill { per_second: 4.0, capacity: 8.0 };
/// How long an answer is held back.
const HOLD: Duration = Duration::from_secs(1);
/// Answers held back at the same time, at most.
const MAX_HELD: usize = 2_000;
/// Readers that are remembered, at most, and for how long after their last empty answer. By then a bucket is full again.
const MAX_READERS: u64 = 50_000;
const FORGET: Duration = Duration::from_secs(5);

/// Who reads what: a log, and a digest of the table and the device.
type ReaderKey = (Uuid, u64);

/// Whose answers are held back.
#[derive(Clone, Debug)]
pub struct Polls {
    hub: Arc<Hub>,
    empty: Cache<ReaderKey, Arc<Mutex<Bucket>>>,
    places: Arc<Semaphore>,
    held: IntCounter,
    clock: Clock,
    /// Cancelled once nobody is to wait any more.
    closing: CancellationToken,
}

/// One reader's request.
#[derive(Debug)]
pub struct Poll {
    polls: Polls,
    reader: ReaderKey,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    membership: Membership,
    _place: OwnedSemaphorePermit,
}

impl Polls {
    /// Nobody has asked yet. `held` counts the answers that were held back.
    pub fn new(hub: Arc<Hub>, held: IntCounter, clock: Clock, closing: CancellationToken) -> Polls {
        let empty = Cache::builder().max_capacity(MAX_READERS).time_to_idle(FORGET).build();
        Polls { hub, empty, places: Arc::new(Semaphore::new(MAX_HELD)), held, clock, closing }
    }

    /// A device asks for what is new in a table of a log, or in all of them. To be called before the log is read: one who
    /// asks too often hears from then on what is stored.
    pub fn ask(&self, log: &Log, table: Option<&str>, device: Option<&str>) -> Poll {
        let mut digest = DefaultHasher::new();
        (table, device).hash(&mut digest);
        let reader = (log.id.0, digest.finish());
        let place = self.asks_too_often(&reader).then(|| self.places.clone().try_acquire_owned().ok()).flatten();
        let waiting = place.map(|place| {
            let interest = Interest {
                app: Some(log.app.clone()),
                tables: table.map(|table| [table.to_owned()].into()),
                client: device.map(Into::into),
            };
            Waiting { membership: self.hub.wait(log.user, interest), _place: place }
        });
        Poll { polls: self.clone(), reader, waiting }
    }

    fn asks_too_often(&self, reader: &ReaderKey) -> bool {
        let Some(bucket) = self.empty.get(reader) else { return false };
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = bucket.take(1.0, EMPTY_ANSWERS, self.clock.instant());
        if asked.is_ok() {
            bucket.give_back(1.0, EMPTY_ANSWERS);
        }
        asked.is_err()
    }
}

impl Poll {
    /// Takes note that there was nothing new. Waits, if the reader asks too often, and says whether something has been
    /// stored since it asked.
    pub async fn nothing_new(self) -> bool {
        let now = self.polls.clock.instant();
        let new = || Arc::new(Mutex::new(Bucket::full(EMPTY_ANSWERS, now)));
        let bucket = self.polls.empty.get_with(self.reader, new);
        // Whoever has none left is held back below.
        let _ = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(1.0, EMPTY_ANSWERS, now);
        let Some(Waiting { membership, .. }) = self.waiting else { return false };
        self.polls.held.inc();
        let stored = timeout(HOLD, membership.mailbox().filled());
        self.polls.closing.run_until_cancelled(stored).await.is_some_and(|stored| stored.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanout::{SessionRegistry, Wakeup};
    use crate::telemetry::Metrics;
    use futures_util::FutureExt;

    fn polls(closing: &CancellationToken) -> Polls {
        let held = IntCounter::new("held", "for the test").unwrap();
        let clock = Clock::system();
        Polls::new(Arc::new(Hub::new(Arc::new(Metrics::new()), clock.clone())), held, clock, closing.clone())
    }

    fn wakeup(log: &Log, table: &str, client: &str) -> Wakeup {
        Wakeup {
            user: log.user,
            app: log.app.clone(),
            client: Some(client.into()),
            tables: Some(vec![table.into()].into()),
            ranges: vec![],
            pushes: vec![],
        }
    }

    /// Asks until it is too often.
    fn too_often(polls: &Polls, log: &Log) -> Poll {
        loop {
            let poll = polls.ask(log, Some("tasks"), Some("phone"));
            if poll.waiting.is_some() {
                return poll;
            }
            assert_eq!(poll.nothing_new().now_or_never(), Some(false), "answered at once");
        }
    }

    #[tokio::test]
    async fn an_answer_is_held_back_from_who_asks_too_often_until_something_is_stored() {
        let (closing, log) = (CancellationToken::new(), Log::new("u".into(), "todo"));
        let polls = polls(&closing);
        let poll = too_often(&polls, &log);
        assert!(polls.ask(&log, Some("lists"), Some("phone")).waiting.is_none(), "each table by itself");
        assert!(polls.ask(&log, Some("tasks"), Some("laptop")).waiting.is_none(), "and each device");
        for other in [wakeup(&log, "lists", "laptop"), wakeup(&log, "tasks", "phone")] {
            polls.hub.announce(&other);
        }
        let mut waiting = Box::pin(poll.nothing_new());
        assert_eq!((&mut waiting).now_or_never(), None, "nothing that it would be sent");
        polls.hub.announce(&wakeup(&log, "tasks", "laptop"));
        assert!(waiting.await);
        let poll = too_often(&polls, &log);
        polls.hub.announce(&wakeup(&log, "tasks", "laptop"));
        assert_eq!(poll.nothing_new().now_or_never(), Some(true), "what was stored while the log was read");
        let poll = too_often(&polls, &log);
        let begun = tokio::time::Instant::now();
        assert!(!poll.nothing_new().await);
        assert!(begun.elapsed() >= HOLD);
        let poll = too_often(&polls, &log);
        closing.cancel();
        assert_eq!(poll.nothing_new().now_or_never(), Some(false), "a replica that stops holds nobody");
    }

    #[tokio::test]
    async fn only_so_many_are_held_back() {
        let (closing, log) = (CancellationToken::new(), Log::new("u".into(), "todo"));
        let polls = Polls { places: Arc::new(Semaphore::new(1)), ..polls(&closing) };
        let held = too_often(&polls, &log);
        assert_eq!(polls.ask(&log, Some("tasks"), Some("phone")).nothing_new().now_or_never(), Some(false), "no place");
        assert!(polls.hub.is_connected(log.user));
        drop(held);
        assert!(!polls.hub.is_connected(log.user), "nothing is left of those who have gone");
    }
}
