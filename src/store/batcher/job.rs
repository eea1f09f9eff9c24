//! Jobs: pushes to be stored, each with its waiting caller.

use crate::protocol::Log;
use crate::protocol::push::Push;
use crate::store::StoreError;
use crate::store::announcement::{Announcement, CommitNotice, Told};
use crate::store::batch::Entry;
use crate::store::known::Pushed;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

/// Limits within which a push may share a statement with others: such a push takes barely longer than the commit.
const MAX_SHARED_CHANGES: usize = 64;
const MAX_SHARED_BYTES: usize = 64 << 10;

/// Beyond either of these, a push takes the database so long that few such pushes run at the same time.
const MAX_ALONE_CHANGES: usize = 2_000;
const MAX_ALONE_BYTES: usize = 1 << 20;

/// Initial and maximum pause before a push is retried whose log's head is locked.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// How a push is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// In a statement with others.
    Shared,
    /// In a statement of its own, because it is large or some of it may be stored already.
    Alone,
    /// In a statement of its own that takes long, because it is very large.
    VeryLarge,
    /// In a statement of its own, because its log's head was locked a moment ago.
    Locked,
}

/// The result of a push.
pub(super) type Answer = Result<Pushed, StoreError>;

/// A push on its way into the log.
pub(in crate::store) struct Job {
    /// Unique within this process.
    pub(super) id: u64,
    pub(super) entry: Entry,
    announcement: Box<dyn Announcement>,
    answer: oneshot::Sender<Answer>,
    answered: Option<oneshot::Receiver<Answer>>,
    way: Way,
    came: Instant,
    pause: Duration,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Job {
    /// Creates the job of a push with the ids of its rows.
    pub(in crate::store) fn new(log: Log, push: Arc<Push>, ids: Vec<Uuid>, announcement: Box<dyn Announcement>) -> Job {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (answer, answered) = oneshot::channel();
        let entry = Entry::new(log, push, ids);
        let way = way_of(&entry);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Job { id, entry, announcement, answer, answered: Some(answered), way, came: Instant::now(), pause: PAUSE.0 }
    }

    /// Takes the receiver of the answer. To be called once.
    pub(super) fn answered(&mut self) -> oneshot::Receiver<Answer> {
        self.answered.take().unwrap_or_else(|| oneshot::channel().1)
    }

    /// Returns how it is stored.
    pub(super) fn way(&self) -> Way {
        self.way
    }

    /// Returns true if it has a statement of its own.
    pub(super) fn goes_alone(&self) -> bool {
        self.way != Way::Shared
    }

    /// Returns the maximum number of changes that it stores.
    pub(super) fn size(&self) -> usize {
        self.entry.rows.len()
    }

    /// Sets how it is stored.
    pub(super) fn going(mut self, way: Way) -> Job {
        self.way = way;
        self
    }

    /// Marks a push some of whose changes are stored already.
    pub(super) fn looking_first(mut self) -> Job {
        self.entry.looks_first = true;
        let way = way_of(&self.entry);
        self.going(way)
    }

    /// Returns how long to leave its log alone now; longer each time.
    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE.1);
        pause
    }

    /// Returns true if nobody waits for it anymore, or if it has waited for this long.
    pub(super) fn is_expired(&self, limit: Duration) -> bool {
        self.answer.is_closed() || self.came.elapsed() >= limit
    }

    /// Returns the notification for its transaction, if this is the moment for one.
    pub(super) fn notice(&mut self) -> Option<CommitNotice> {
        self.announcement.with_commit()
    }

    /// Reports the result of the statement that was to send the notification.
    pub(super) fn told(&mut self, told: Told) {
        self.announcement.told(told);
    }

    /// Announces a stored push, and answers the caller.
    pub(super) fn finish(self, pushed: Answer) {
        if let Ok(pushed) = &pushed {
            self.announcement.stored(pushed);
        }
        // A caller that is gone by now will send the push again, and it will be recognized.
        let _ = self.answer.send(pushed);
    }
}

fn way_of(entry: &Entry) -> Way {
    let fits = |changes, bytes| entry.push.changes.len() <= changes && entry.bytes() <= bytes;
    if !fits(MAX_ALONE_CHANGES, MAX_ALONE_BYTES) {
        Way::VeryLarge
    } else if entry.looks_first || !fits(MAX_SHARED_CHANGES, MAX_SHARED_BYTES) {
        Way::Alone
    } else {
        Way::Shared
    }
}
