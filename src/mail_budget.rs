//! The memory of what sessions keep, in bytes, of each user and of all (G6): what waits in mailboxes, and the names that
//! streams ask for.
//!
//! What a mailbox keeps is charged before it is added. Whoever finds no room does not wait, as wake-ups are taken to
//! sessions under a lock: its session counts as one that is behind.

use prometheus::IntGauge;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What may wait for all users, in bytes, and for one of them. Little mail is part of what each session costs, and is not
/// counted: so nobody who keeps up finds that others have taken all of it.
const MAX_ALL: usize = 64 << 20;
const MAX_USER: usize = MAX_ALL / 8;

/// The mail of all users, or the names.
#[derive(Clone, Debug)]
pub struct MailBudget {
    bytes: Arc<AtomicUsize>,
    /// Shows them.
    shown: IntGauge,
}

/// The mail of one user. Clones are of the same user.
#[derive(Clone, Debug)]
pub struct UserMail(Arc<UserBytes>);

#[derive(Debug)]
struct UserBytes {
    bytes: AtomicUsize,
    all: MailBudget,
}

/// Bytes that are charged to a user, until this is dropped.
#[derive(Debug)]
pub struct MailCharge {
    user: UserMail,
    bytes: usize,
}

impl MailBudget {
    /// Nobody has any. `shown` tells how many bytes are charged to all.
    pub fn new(shown: IntGauge) -> MailBudget {
        MailBudget { bytes: Arc::default(), shown }
    }

    /// The mail of a user who has none yet.
    pub fn user(&self) -> UserMail {
        UserMail(Arc::new(UserBytes { bytes: AtomicUsize::new(0), all: self.clone() }))
    }

    /// Bytes that are charged to all.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl UserMail {
    /// Charges so many bytes; none if there is not so much room.
    pub fn charge(&self, bytes: usize) -> Option<MailCharge> {
        let mut charge = MailCharge { user: self.clone(), bytes: 0 };
        charge.grow(bytes).then_some(charge)
    }
}

impl MailCharge {
    /// Charges so many bytes instead. Nothing has changed if there is not so much room: false.
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

    /// Charges so many bytes more. Nothing has changed if there is not so much room: false.
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
