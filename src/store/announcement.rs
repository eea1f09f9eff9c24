//! How what is stored becomes known to others.

use super::Pushed;
use aws_lc_rs::digest;
use std::fmt::Write as _;
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

impl CommitNotice {
    /// What the statement sends where it stores this range: for whoever wants to know without a database.
    pub fn payload(&self, previous: i64, last: i64) -> String {
        let CommitNotice { key, before, after, .. } = self;
        let signed = format!("{before}{previous:016x}{last:016x}{after}");
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(key);
        hash.update(signed.as_bytes());
        let mut payload = "m3".to_owned();
        for byte in hash.finish().as_ref().iter().take(12) {
            // Writing to a string does not fail.
            let _ = write!(payload, "{byte:02x}");
        }
        payload + &signed
    }
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
    /// It did not, because the database takes no notification: its queue is full, or somebody holds the lock for long that
    /// every commit takes which notifies.
    Refused,
}

impl<F: FnOnce(&Pushed) + Send> Announcement for F {
    fn stored(self: Box<Self>, pushed: &Pushed) {
        self(pushed);
    }
}
