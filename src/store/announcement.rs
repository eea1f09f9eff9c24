//! Announcing stored pushes to other replicas.

use super::Pushed;
use aws_lc_rs::digest;
use std::fmt::Write as _;
use std::time::Duration;

/// A notification sent by a push's own transaction, with its commit.
///
/// The payload is signed in the statement itself, where the stored range becomes known; the key is valid for this
/// notification alone, because parameters may be logged. The payload is `m3`, the signature, and the text that it
/// covers: `before`, the range, `after`; see `fanout::commit_payload`.
#[derive(Clone, Debug)]
pub struct CommitNotice {
    /// The channel.
    pub channel: &'static str,
    /// The key that signs this notification and no other.
    pub key: Vec<u8>,
    /// The text before the range.
    pub before: String,
    /// The text after the range.
    pub after: String,
}

impl CommitNotice {
    /// Returns the payload that the statement sends when it stores this range, computed without a database.
    pub fn payload(&self, previous: i64, last: i64) -> String {
        let CommitNotice { key, before, after, .. } = self;
        let signed = format!("{before}{previous:016x}{last:016x}{after}");
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(key);
        hash.update(signed.as_bytes());
        let mut payload = "m3".to_owned();
        for byte in hash.finish().as_ref().iter().take(12) {
            // Writing to a string cannot fail.
            let _ = write!(payload, "{byte:02x}");
        }
        payload + &signed
    }
}

/// Announces one push to others.
pub trait Announcement: Send {
    /// Returns the notification to send in the push's own transaction, if this is the moment for it: no other push is
    /// being stored by this replica. If there is one, a call to [`Announcement::told`] follows.
    fn with_commit(&mut self) -> Option<CommitNotice> {
        None
    }

    /// Reports the result of the statement that was to send the notification.
    fn told(&mut self, told: Told) {
        let _ = told;
    }

    /// Announces that the push is stored.
    fn stored(self: Box<Self>, pushed: &Pushed);
}

/// The result of a statement that was to send the notification of its push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was sent; the statement took this long.
    After(Duration),
    /// It was not sent; nothing is stored either.
    Not,
    /// It did not, because the database refused the notification: its queue is full, or another transaction holds the lock
    /// that every notifying commit needs.
    Refused,
}

impl<F: FnOnce(&Pushed) + Send> Announcement for F {
    fn stored(self: Box<Self>, pushed: &Pushed) {
        self(pushed);
    }
}
