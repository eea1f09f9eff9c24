//! A push that is to be stored, and whoever waits for that.

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

/// Changes and bytes with which a push still shares a statement with others: it takes hardly longer than the commit.
const MAX_SHARED_CHANGES: usize = 64;
const MAX_SHARED_BYTES: usize = 64 << 10;

/// Pause before a push is tried again whose head somebody holds: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// How a push is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// In a statement with others.
    Shared,
    /// In a statement of its own: it is large, or something of it may be stored already.
    Alone,
    /// In a statement of its own, because somebody held its log's head a moment ago.
    Locked,
}

/// How a push ends.
pub(super) type Answer = Result<Pushed, StoreError>;

/// A push on its way into the log.
pub(in crate::store) struct Job {
    /// Which of all; unique in this process.
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
    /// A push with the ids of its rows.
    pub(in crate::store) fn new(log: Log, push: Arc<Push>, ids: Vec<Uuid>, announcement: Box<dyn Announcement>) -> Job {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (answer, answered) = oneshot::channel();
        let entry = Entry::new(log, push, ids);
        let way = if entry.looks_first || !is_small(&entry) { Way::Alone } else { Way::Shared };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Job { id, entry, announcement, answer, answered: Some(answered), way, came: Instant::now(), pause: PAUSE.0 }
    }

    /// Where the answer will be. To be taken once.
    pub(super) fn answered(&mut self) -> oneshot::Receiver<Answer> {
        self.answered.take().unwrap_or_else(|| oneshot::channel().1)
    }

    /// How it is stored.
    pub(super) fn way(&self) -> Way {
        self.way
    }

    /// Whether it has a statement of its own.
    pub(super) fn goes_alone(&self) -> bool {
        self.way != Way::Shared
    }

    /// Changes that it stores, at most.
    pub(super) fn size(&self) -> usize {
        self.entry.rows.len()
    }

    /// The same, to be stored this way.
    pub(super) fn going(mut self, way: Way) -> Job {
        self.way = way;
        self
    }

    /// The same, of which something was found to be stored.
    pub(super) fn looking_first(mut self) -> Job {
        self.entry.looks_first = true;
        self.going(Way::Alone)
    }

    /// How long to leave its log alone now. Longer each time.
    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE.1);
        pause
    }

    /// Whether nobody waits for it any more, or somebody has for so long.
    pub(super) fn is_expired(&self, limit: Duration) -> bool {
        self.answer.is_closed() || self.came.elapsed() >= limit
    }

    /// What its transaction is to tell others, if this is the moment for that.
    pub(super) fn notice(&mut self) -> Option<CommitNotice> {
        self.announcement.with_commit()
    }

    /// How the statement ended that was to do so.
    pub(super) fn told(&mut self, told: Told) {
        self.announcement.told(told);
    }

    /// Announces what is stored, and answers whoever waits.
    pub(super) fn finish(self, pushed: Answer) {
        if let Ok(pushed) = &pushed {
            self.announcement.stored(pushed);
        }
        // Whoever has gone meanwhile will send it again, and it will be recognized.
        let _ = self.answer.send(pushed);
    }
}

fn is_small(entry: &Entry) -> bool {
    let changes = &entry.push.changes;
    changes.len() <= MAX_SHARED_CHANGES && changes.iter().map(|change| change.size).sum::<usize>() <= MAX_SHARED_BYTES
}
