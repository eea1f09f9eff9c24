//! Memory accounting for what sessions keep, in bytes, per user and in total (G6): wake-ups waiting in mailboxes, and
//! the names requested by streams.
//!
//! Mail is charged before it is added to a mailbox. Because wake-ups are delivered under a lock, a charge never waits:
//! if there is no room, the session counts as one that is behind.

use prometheus::IntGauge;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maximum bytes waiting for all users, and for one of them. A small amount of mail is part of each session's fixed
/// cost and not counted; therefore others can never use up all the room of a session that keeps up.
const MAX_ALL: usize = 64 << 20;
const MAX_USER: usize = MAX_ALL / 8;

/// The mail of all users, or the names.
#[derive(Clone, Debug)]
pub struct MailBudget {
    bytes: Arc<AtomicUsize>,
    /// Exports `bytes`.
    shown: IntGauge,
}

/// One user's mail. Clones refer to the same user.
#[derive(Clone, Debug)]
pub struct UserMail(Arc<UserBytes>);

#[derive(Debug)]
struct UserBytes {
    bytes: AtomicUsize,
    all: MailBudget,
}

/// Bytes charged to a user until this is dropped.
#[derive(Debug)]
pub struct MailCharge {
    user: UserMail,
    bytes: usize,
}

impl MailBudget {
    /// Creates an empty budget. `shown` exports the bytes charged to all users.
    pub fn new(shown: IntGauge) -> MailBudget {
        MailBudget { bytes: Arc::default(), shown }
    }

    /// Creates the account of a user who has no mail yet.
    pub fn user(&self) -> UserMail {
        UserMail(Arc::new(UserBytes { bytes: AtomicUsize::new(0), all: self.clone() }))
    }

    /// Returns the bytes charged to all users.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl UserMail {
    /// Charges this many bytes. `None` if there is not enough room.
    pub fn charge(&self, bytes: usize) -> Option<MailCharge> {
        let mut charge = MailCharge { user: self.clone(), bytes: 0 };
        charge.grow(bytes).then_some(charge)
    }
}

impl MailCharge {
    /// Changes the charge to this many bytes. Returns false, with nothing changed, if there is not enough room.
    pub fn set(&mut self, bytes: usize) -> bool {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            return self.grow(more);
        }
        self.give_back(self.bytes - bytes);
        true
    }

    fn give_back(&mut self, less: usize) {
        let UserBytes { bytes, all } = &*self.user.0;
        bytes.fetch_sub(less, Ordering::Relaxed);
        all.bytes.fetch_sub(less, Ordering::Relaxed);
        all.shown.sub(less as i64);
        self.bytes -= less;
    }

    /// Charges this many additional bytes. Returns false, with nothing changed, if there is not enough room.
    pub fn grow(&mut self, more: usize) -> bool {
        let UserBytes { bytes, all } = &*self.user.0;
        if !add(bytes, more, MAX_USER) {
            return false;
        }
        if !add(&all.bytes, more, MAX_ALL) {
            bytes.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        all.shown.add(more as i64);
        self.bytes += more;
        true
    }
}

impl Drop for MailCharge {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

fn add(bytes: &AtomicUsize, more: usize, most: usize) -> bool {
    let fits = bytes.fetch_add(more, Ordering::Relaxed) + more <= most;
    if !fits {
        bytes.fetch_sub(more, Ordering::Relaxed);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_share_and_all_have_what_there_is() {
        let all = MailBudget::new(IntGauge::new("mail", "for the test").unwrap());
        let users: Vec<UserMail> = (0..9).map(|_| all.user()).collect();
        let mut first = users[0].charge(MAX_USER - 10).unwrap();
        assert!(users[0].charge(11).is_none() && !first.grow(11) && first.grow(10));
        let others: Vec<MailCharge> = users[1..8].iter().map(|user| user.charge(MAX_USER).unwrap()).collect();
        assert_eq!((all.bytes(), all.shown.get()), (MAX_ALL, MAX_ALL as i64));
        assert!(users[8].charge(1).is_none(), "nothing is left");
        assert!(first.set(5) && users[8].charge(MAX_USER - 5).is_some() && first.set(MAX_USER));
        drop(first);
        assert!(users[8].charge(MAX_USER).is_some());
        assert_eq!(all.bytes(), MAX_ALL - MAX_USER);
        drop(others);
        assert_eq!((all.bytes(), all.shown.get()), (0, 0));
        assert!(users[0].charge(MAX_USER).is_some(), "all of it was given back to its user, too");
    }
}
