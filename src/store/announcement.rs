//! How what is stored becomes known to others.

use super::Pushed;
use std::time::Duration;

/// A notification that a push's own transaction sends with its commit.
///
/// What it tells is signed where the range that is stored becomes known, which is in the statement: with a key for it
/// alone, since parameters may be logged. The payload is `m3`, a signature, and `before`, the range, `after`, which it covers;
/// see `fanout::commit_payload`.
#[derive(Clone, Debug)]
pub struct CommitNotice {
    /// The channel.
    pub channel: &'static str,
    /// What signs this notification and no other.
    pub key: Vec<u8>,
    /// What stands before the range.
    pub before: String,
    /// And after it.
    pub after: String,
}

/// Tells others of one push.
pub trait Announcement: Send {
    /// What is to be told by the push's own transaction, if this is the moment for that: no other push is being stored by
    /// this replica. If there is something, [`Announcement::told`] follows.
    fn with_commit(&mut self) -> Option<CommitNotice> {
        None
    }

    /// How the statement ended that was to tell: after so long, if the push is stored and told of.
    fn told(&mut self, told: Told) {
        let _ = told;
    }

    /// The push is stored.
    fn stored(self: Box<Self>, pushed: &Pushed);
}

/// How a statement ended that was to tell of its push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It did, and took so long.
    After(Duration),
    /// It did not: nothing is stored either.
    Not,
    /// It did not, because the database takes no more notifications.
    QueueFull,
}

impl<F: FnOnce(&Pushed) + Send> Announcement for F {
    fn stored(self: Box<Self>, pushed: &Pushed) {
        self(pushed);
    }
}
