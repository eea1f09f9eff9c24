//! Lists of tables merged into one, for all sessions of a user: those that do not read have the same lists waiting, and
//! merging them for each of hundreds would hold up everybody else's wake-ups (G6).

use crate::fanout::tables::{Tables, WeakTables};
use crate::mail_budget::UserMail;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// The number of merges that are remembered. Sessions that took their mail at different times have different lists.
const REMEMBERED: usize = 8;

/// The latest merges of one user.
#[derive(Debug)]
pub struct Merges {
    mail: UserMail,
    latest: Mutex<VecDeque<Merge>>,
}

/// A merge that sessions may still keep. It keeps nothing itself.
#[derive(Debug)]
struct Merge {
    of: Vec<WeakTables>,
    all: WeakTables,
}

impl Merges {
    /// Creates an empty memory. `mail`: charged for the merged lists.
    pub(super) fn new(mail: UserMail) -> Merges {
        Merges { mail, latest: Mutex::default() }
    }

    /// The account of the user.
    pub(super) fn mail(&self) -> &UserMail {
        &self.mail
    }

    /// Returns the list of all names in these lists; `None` if the user has no room for it.
    pub(super) fn merge(&self, lists: &[Tables]) -> Option<Tables> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = latest.iter().filter(|merge| merge.is_of(lists)).find_map(|merge| merge.all.upgrade()) {
            return Some(known);
        }
        let all = Tables::merged(lists, &self.mail)?;
        latest.truncate(REMEMBERED - 1);
        latest.push_front(Merge { of: lists.iter().map(Tables::downgrade).collect(), all: all.downgrade() });
        Some(all)
    }
}

impl Merge {
    fn is_of(&self, lists: &[Tables]) -> bool {
        self.of.len() == lists.len() && self.of.iter().zip(lists).all(|(weak, list)| weak.is(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail_budget::MailBudget;

    fn tables(names: &[&str]) -> Tables {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn what_several_sessions_merge_is_merged_once_and_kept_by_them_alone() {
        let budget = MailBudget::new(prometheus::IntGauge::new("mail", "for the test").unwrap());
        let merges = Merges::new(budget.user());
        let lists = [tables(&["a", "c"]), tables(&["b", "c"]), tables(&["a"])];
        let all = merges.merge(&lists).unwrap();
        assert_eq!(all, tables(&["a", "b", "c"]));
        assert!(merges.merge(&lists).unwrap().is_same(&all));
        let equal = [tables(&["a", "c"]), lists[1].clone(), lists[2].clone()];
        assert!(!merges.merge(&equal).unwrap().is_same(&all), "these are other lists");
        let kept = budget.bytes();
        assert!(kept >= all.bytes());
        drop(all);
        assert_eq!(budget.bytes(), 0, "nobody keeps it any more");
        assert_eq!(merges.merge(&lists).unwrap(), tables(&["a", "b", "c"]));
    }

    #[test]
    fn nothing_is_merged_that_its_user_has_no_room_for() {
        let budget = MailBudget::new(prometheus::IntGauge::new("mail", "for the test").unwrap());
        let user = budget.user();
        let merges = Merges::new(user.clone());
        let long = "x".repeat(250);
        let lists: Vec<Tables> =
            (0..2).map(|list| (0..1_000).map(|n| format!("{list}-{n}-{long}").into()).collect()).collect();
        let mut others = user.charge(0).unwrap();
        while others.grow(64 << 10) {}
        assert_eq!(merges.merge(&lists), None);
        drop(others);
        assert_eq!(merges.merge(&lists).map(|all| all.len()), Some(2_000));
    }
}
