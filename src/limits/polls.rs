//! Slows down readers that poll repeatedly although there is nothing new (G6).
//!
//! Some clients poll without a pause, and only poll faster if they are refused. Therefore, a reader that was answered
//! "nothing new" more than a few times a second has its next such response delayed: until something is stored that the
//! reader would be sent, as the hub knows, or for one second at most. The same happens if all readers of a log together
//! poll much faster: some clients have many tables, or use a new name each time. A delayed request holds no database
//! connection and no page in memory. The number of delayed requests is limited, in total and per user; any others are
//! answered at once.

use super::bucket::{Bucket, Refill};
use crate::clock::Clock;
use crate::hub::{Hub, Interest, Membership};
use crate::protocol::{Log, UserKey};
use moka::sync::Cache;
use prometheus::IntCounter;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The rate of empty responses that a reader gets without delay.
const EMPTY_ANSWERS: Refill = Refill { per_second: 4.0, capacity: 8.0 };
/// The same for all readers of a log together: a client that occasionally asks for each of its tables stays below it.
const EMPTY_ANSWERS_OF_LOG: Refill = Refill { per_second: 40.0, capacity: 120.0 };
/// How long a response is delayed.
const HOLD: Duration = Duration::from_secs(1);
/// Maximum number of responses delayed at the same time,
const MAX_HELD: usize = 2_000;
/// and per user.
const MAX_HELD_PER_USER: usize = 200;
/// Maximum number of readers remembered, and for how long after their last empty response. By then, their bucket is
/// full again.
const MAX_READERS: u64 = 50_000;
const FORGET: Duration = Duration::from_secs(5);

/// A reader: a log, and a digest of the table and the device. `None`: all readers of the log.
type ReaderKey = (Uuid, Option<u64>);

/// Delays the responses of readers that poll too often.
#[derive(Clone, Debug)]
pub struct Polls {
    hub: Arc<Hub>,
    empty: Cache<ReaderKey, Arc<Mutex<Bucket>>>,
    places: Arc<Semaphore>,
    /// The number of places in use, for each user with any.
    of_users: Arc<Mutex<HashMap<UserKey, usize>>>,
    held: IntCounter,
    clock: Clock,
    /// Canceled when nobody may wait any longer.
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
    _place: Place,
}

/// A place among the delayed responses.
#[derive(Debug)]
struct Place {
    user: UserKey,
    of_users: Arc<Mutex<HashMap<UserKey, usize>>>,
    _of_all: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of_users = self.of_users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = of_users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                of_users.remove(&self.user);
            }
        }
    }
}

impl Polls {
    /// Creates the tracker. `held` counts the delayed responses.
    pub fn new(hub: Arc<Hub>, held: IntCounter, clock: Clock, closing: CancellationToken) -> Polls {
        let empty = Cache::builder().max_capacity(MAX_READERS).time_to_idle(FORGET).build();
        let places = Arc::new(Semaphore::new(MAX_HELD));
        Polls { hub, empty, places, of_users: Arc::default(), held, clock, closing }
    }

    /// Starts a device's request for what is new in a table of a log, or in all of them. Must be called before the log
    /// is read: a reader that polls too often is then notified of everything stored from here on.
    pub fn ask(&self, log: &Log, table: Option<&str>, device: Option<&str>) -> Poll {
        let mut digest = DefaultHasher::new();
        (table, device).hash(&mut digest);
        let reader = (log.id.0, Some(digest.finish()));
        let asks_too_often =
            self.asks_too_often(&reader, EMPTY_ANSWERS) || self.asks_too_often(&(log.id.0, None), EMPTY_ANSWERS_OF_LOG);
        let place = asks_too_often.then(|| self.place(log.user)).flatten();
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

    fn asks_too_often(&self, reader: &ReaderKey, refill: Refill) -> bool {
        let Some(bucket) = self.empty.get(reader) else { return false };
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = bucket.take(1.0, refill, self.clock.instant());
        if asked.is_ok() {
            bucket.give_back(1.0, refill);
        }
        asked.is_err()
    }

    fn note_empty(&self, reader: ReaderKey, refill: Refill) {
        let now = self.clock.instant();
        let bucket = self.empty.get_with(reader, || Arc::new(Mutex::new(Bucket::full(refill, now))));
        // A reader without any left is delayed.
        let _ = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(1.0, refill, now);
    }

    fn place(&self, user: UserKey) -> Option<Place> {
        let of_all = self.places.clone().try_acquire_owned().ok()?;
        let mut of_users = self.of_users.lock().unwrap_or_else(PoisonError::into_inner);
        let count = of_users.entry(user).or_default();
        if *count >= MAX_HELD_PER_USER {
            return None;
        }
        *count += 1;
        Some(Place { user, of_users: self.of_users.clone(), _of_all: of_all })
    }
}

impl Poll {
    /// Records that there was nothing new. If the reader polls too often, waits, and returns whether something has been
    /// stored since the request.
    pub async fn nothing_new(self) -> bool {
        self.polls.note_empty(self.reader, EMPTY_ANSWERS);
        self.polls.note_empty((self.reader.0, None), EMPTY_ANSWERS_OF_LOG);
        let Some(Waiting { membership, .. }) = self.waiting else { return false };
        self.polls.held.inc();
        let stored = timeout(HOLD, membership.mailbox().filled());
        self.polls.closing.run_until_cancelled(stored).await.is_some_and(|stored| stored.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::fanout::{SessionRegistry, Wakeup};
    use crate::telemetry::Metrics;
    use futures_util::FutureExt;

    fn polls(closing: &CancellationToken) -> Polls {
        polls_by(Clock::system(), closing)
    }

    fn polls_by(clock: Clock, closing: &CancellationToken) -> Polls {
        let held = IntCounter::new("held", "for the test").unwrap();
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

    /// Polls until it is too frequent.
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
        assert!(polls.of_users.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_user_has_a_share_of_the_places() {
        let (closing, noisy, other) =
            (CancellationToken::new(), Log::new("u".into(), "todo"), Log::new("v".into(), "todo"));
        let clock = ManualClock::at_present(1);
        let polls = polls_by(clock.clock(), &closing);
        let first = too_often(&polls, &noisy);
        let held: Vec<_> = (1..MAX_HELD_PER_USER).map(|_| polls.ask(&noisy, Some("tasks"), Some("phone"))).collect();
        assert!(held.iter().all(|poll| poll.waiting.is_some()));
        assert!(polls.ask(&noisy, Some("tasks"), Some("phone")).waiting.is_none(), "as many as one user may have");
        assert!(too_often(&polls, &other).waiting.is_some(), "another user has a share too");
        drop(first);
        assert!(polls.ask(&noisy, Some("tasks"), Some("phone")).waiting.is_some());
    }

    #[tokio::test]
    async fn readers_of_one_log_that_ask_too_often_together_are_held_back_as_well() {
        let (closing, log) = (CancellationToken::new(), Log::new("u".into(), "todo"));
        let clock = ManualClock::at_present(1);
        let polls = polls_by(clock.clock(), &closing);
        let mut answered = 0;
        // Each for its own table, and each once.
        while polls.ask(&log, Some(&format!("table-{answered}")), Some("phone")).waiting.is_none() {
            let poll = polls.ask(&log, Some(&format!("table-{answered}")), Some("phone"));
            assert_eq!(poll.nothing_new().now_or_never(), Some(false));
            answered += 1;
            assert!(answered < 10_000, "nobody is held back");
        }
        assert_eq!(answered, 120);
        assert!(polls.ask(&log, Some("another"), Some("another")).waiting.is_some(), "whatever its name");
        assert!(polls.ask(&Log::new("u".into(), "notes"), Some("tasks"), Some("phone")).waiting.is_none());
    }
}
