//! The tables of one app that wait for a session: lists shared by all sessions of its user, and names of its own where
//! more small wake-ups have piled up.

use super::merges::Merges;
use crate::fanout::tables::{NAME_BYTES, Tables};
use crate::protocol::websocket::{ServerMessage, Text};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Lists of more names than this are kept whole next to others,
const SMALL: usize = 32;
/// up to this many; then they are merged into one. Small lists are merged name by name.
const MAX_LISTS: usize = 8;

/// The pending tables of one app.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PendingTables {
    lists: Vec<Tables>,
    names: BTreeSet<Arc<str>>,
    /// Size of the names in bytes.
    bytes: usize,
}

impl PendingTables {
    /// Adds a list; false if the user has no room.
    pub(super) fn add(&mut self, tables: &Tables, merges: &Merges) -> bool {
        if self.lists.iter().any(|list| list.is_same(tables)) {
            return true;
        }
        let is_first = self.lists.is_empty() && self.names.is_empty();
        if is_first || tables.len() > SMALL {
            if self.lists.len() == MAX_LISTS && !self.merge(merges) {
                return false;
            }
            self.lists.push(tables.clone());
            return true;
        }
        let small = self.lists.iter().position(|list| list.len() <= SMALL).map(|at| self.lists.remove(at));
        for name in small.iter().flatten().chain(tables) {
            self.insert(name);
        }
        true
    }

    /// Merges the lists; false if the user has no room for that.
    fn merge(&mut self, merges: &Merges) -> bool {
        if self.lists.len() > 1 {
            let Some(all) = merges.merge(&self.lists) else { return false };
            self.lists = vec![all];
        }
        true
    }

    /// Adds one name.
    pub(super) fn insert(&mut self, name: &Arc<str>) {
        if self.names.insert(name.clone()) {
            self.bytes += name.len() + NAME_BYTES;
        }
    }

    /// Approximate size of everything in bytes, as if nothing were shared.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.lists.iter().map(Tables::bytes).sum::<usize>()
    }

    /// Size of what is not shared, in bytes.
    pub(super) fn own_bytes(&self) -> usize {
        self.bytes
    }

    /// Iterates over the names. A name may occur more than once.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.lists.iter().flatten().chain(&self.names)
    }

    /// Keeps names that are in several lists only once; false if the user has no room for that.
    pub(super) fn fold(&mut self, merges: &Merges) -> bool {
        if !self.merge(merges) {
            return false;
        }
        if let [list] = self.lists.as_slice() {
            self.names.retain(|name| list.find(name).is_none());
            self.bytes = self.names.iter().map(|name| name.len() + NAME_BYTES).sum();
        }
        true
    }

    /// The message for the session, shared by all sessions if nothing has piled up.
    pub fn message(&self, app: &Arc<str>) -> Text {
        match (self.lists.as_slice(), self.names.is_empty()) {
            ([list], true) => list.message(app),
            _ => message(app, self.iter().collect()),
        }
    }
}

fn message(app: &str, names: BTreeSet<&Arc<str>>) -> Text {
    ServerMessage::SyncAvailable { app_id: app, tables: names.into_iter().map(|name| &**name).collect() }
        .encode()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail_budget::MailBudget;

    fn merges() -> Merges {
        Merges::new(MailBudget::new(prometheus::IntGauge::new("mail", "for the test").unwrap()).user())
    }

    fn tables(prefix: &str, count: usize) -> Tables {
        (0..count).map(|n| format!("{prefix}{n}").into()).collect()
    }

    fn told(waiting: &PendingTables) -> Vec<String> {
        let message: serde_json::Value = serde_json::from_str(&waiting.message(&"todo".into())).unwrap();
        serde_json::from_value(message["tables"].clone()).unwrap()
    }

    #[test]
    fn what_piles_up_is_one_message_and_what_is_long_is_shared() {
        let (few, more) = (tables("a", 3), tables("b", 2));
        let merges = merges();
        let mut waiting = PendingTables::default();
        let add = |waiting: &mut PendingTables, tables: &Tables| assert!(waiting.add(tables, &merges));
        add(&mut waiting, &few);
        add(&mut waiting, &few.clone());
        assert_eq!((waiting.own_bytes(), waiting.bytes()), (0, few.bytes()));
        assert_eq!(waiting.message(&"todo".into()).as_ptr(), few.message(&"todo".into()).as_ptr(), "written once");
        add(&mut waiting, &more);
        add(&mut waiting, &tables("a", 2));
        assert_eq!((waiting.own_bytes(), waiting.bytes()), (5 * 50, 5 * 50));
        assert_eq!(told(&waiting), ["a0", "a1", "a2", "b0", "b1"]);

        let lists: Vec<Tables> = (0..MAX_LISTS + 2).map(|n| tables(&format!("{n}-"), 100)).collect();
        lists.iter().for_each(|list| add(&mut waiting, list));
        let names = told(&waiting);
        assert_eq!(names.len(), 5 + 100 * lists.len(), "no name is lost");
        assert_eq!(waiting.iter().count(), names.len());
        assert!(waiting.own_bytes() == 5 * 50 && waiting.bytes() > 1_000 * 48);
        assert!(waiting.lists.len() < MAX_LISTS);

        // Another session with the same lists shares what they were merged into.
        let mut other = PendingTables::default();
        [&few, &more, &tables("a", 2)].into_iter().chain(&lists).for_each(|list| add(&mut other, list));
        assert!(waiting.fold(&merges) && other.fold(&merges));
        assert_eq!((told(&waiting), waiting.own_bytes()), (names, 5 * 50));
        assert!(waiting.lists[0].is_same(&other.lists[0]));
    }

    #[test]
    fn a_table_that_several_lists_name_counts_once_when_they_are_folded() {
        let mut waiting = PendingTables::default();
        let merges = merges();
        (0..3).for_each(|n| waiting.insert(&format!("t{n}").into()));
        (0..MAX_LISTS).for_each(|_| assert!(waiting.add(&tables("t", 100), &merges)));
        assert_eq!(waiting.bytes(), MAX_LISTS * tables("t", 100).bytes() + 3 * 50);
        assert!(waiting.fold(&merges));
        assert_eq!((waiting.bytes(), told(&waiting).len()), (tables("t", 100).bytes(), 100));
    }
}
