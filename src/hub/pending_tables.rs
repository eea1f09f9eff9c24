//! The tables of one app that wait for a session: lists shared by all sessions of its user, and names of its own where
//! more wake-ups have piled up.

use crate::fanout::tables::{NAME_BYTES, Tables};
use crate::protocol::websocket::{ServerMessage, Text};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Lists of more names than this are kept whole next to others,
const SMALL: usize = 32;
/// up to this many. Further lists are merged, name by name.
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
    /// Adds a list.
    pub(super) fn add(&mut self, tables: &Tables) {
        if self.lists.iter().any(|list| list.is_same(tables)) {
            return;
        }
        let is_first = self.lists.is_empty() && self.names.is_empty();
        if is_first || (tables.len() > SMALL && self.lists.len() < MAX_LISTS) {
            self.lists.push(tables.clone());
            return;
        }
        let small = self.lists.iter().position(|list| list.len() <= SMALL).map(|at| self.lists.remove(at));
        for name in small.iter().flatten().chain(tables) {
            self.insert(name);
        }
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

    /// Keeps names that are in several lists only once. After that, nothing is shared.
    pub(super) fn fold(&mut self) {
        if self.lists.len() + usize::from(!self.names.is_empty()) > 1 {
            for list in std::mem::take(&mut self.lists) {
                list.iter().for_each(|name| self.insert(name));
            }
        }
    }

    /// Size of the largest list in bytes.
    pub(super) fn largest(&self) -> usize {
        self.lists.iter().map(Tables::bytes).max().unwrap_or(0)
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
        let mut waiting = PendingTables::default();
        waiting.add(&few);
        waiting.add(&few.clone());
        assert_eq!((waiting.own_bytes(), waiting.bytes()), (0, few.bytes()));
        assert_eq!(waiting.message(&"todo".into()).as_ptr(), few.message(&"todo".into()).as_ptr(), "written once");
        waiting.add(&more);
        waiting.add(&tables("a", 2));
        assert_eq!((waiting.own_bytes(), waiting.bytes()), (5 * 50, 5 * 50));
        assert_eq!(told(&waiting), ["a0", "a1", "a2", "b0", "b1"]);

        let lists: Vec<Tables> = (0..MAX_LISTS + 2).map(|n| tables(&format!("{n}-"), 100)).collect();
        lists.iter().for_each(|list| waiting.add(list));
        let names = told(&waiting);
        assert_eq!(names.len(), 5 + 100 * lists.len(), "no name is lost");
        assert_eq!(waiting.iter().count(), names.len());
        assert!(waiting.own_bytes() < 205 * 60 && waiting.bytes() > 800 * 48);
        waiting.fold();
        assert_eq!((told(&waiting), waiting.own_bytes()), (names, waiting.bytes()));
    }

    #[test]
    fn a_table_that_several_lists_name_counts_once_when_they_are_folded() {
        let mut waiting = PendingTables::default();
        (0..MAX_LISTS).for_each(|_| waiting.add(&tables("t", 100)));
        assert_eq!(waiting.bytes(), MAX_LISTS * waiting.largest());
        waiting.fold();
        assert_eq!((waiting.bytes(), told(&waiting).len()), (tables("t", 100).bytes(), 100));
    }
}
