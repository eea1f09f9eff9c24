//! The tables of one app that wait for a session: lists that all sessions of its user share, and names of its own where
//! more wake-ups piled up.

use crate::fanout::tables::{NAME_BYTES, Tables};
use crate::protocol::websocket::{ServerMessage, Text};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Lists of more names than this are kept as they are where there is another,
const SMALL: usize = 32;
/// at most so many. What comes then is merged, name by name.
const MAX_LISTS: usize = 8;
/// Up to so many names are told in one message, wherever they came from.
const ONE_MESSAGE: usize = 500;

/// What waits, of one app.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct WaitingTables {
    lists: Vec<Tables>,
    names: BTreeSet<Arc<str>>,
    /// Bytes of the names.
    bytes: usize,
}

impl WaitingTables {
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

    /// Bytes that all of it takes where nothing is shared, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.lists.iter().map(Tables::bytes).sum::<usize>()
    }

    /// Bytes of what is not shared.
    pub(super) fn own_bytes(&self) -> usize {
        self.bytes
    }

    /// The names. One may come more than once.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.lists.iter().flatten().chain(&self.names)
    }

    /// What a session is told: a message, or several where there are very many tables.
    pub fn messages(&self, app: &Arc<str>) -> Vec<Text> {
        match (self.lists.as_slice(), self.names.is_empty()) {
            ([list], true) => vec![list.message(app)],
            (lists, _) if lists.iter().map(|list| list.len()).sum::<usize>() + self.names.len() <= ONE_MESSAGE => {
                vec![message(app, self.iter().collect())]
            }
            (lists, false) => {
                let names = message(app, self.names.iter().collect());
                lists.iter().map(|list| list.message(app)).chain([names]).collect()
            }
            (lists, true) => lists.iter().map(|list| list.message(app)).collect(),
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

    fn told(waiting: &WaitingTables) -> (usize, BTreeSet<String>) {
        let messages = waiting.messages(&"todo".into());
        let mut names = BTreeSet::new();
        for message in &messages {
            let message: serde_json::Value = serde_json::from_str(message).unwrap();
            let list: Vec<String> = serde_json::from_value(message["tables"].clone()).unwrap();
            names.extend(list);
        }
        (messages.len(), names)
    }

    #[test]
    fn what_piles_up_is_one_message_and_what_is_long_is_shared() {
        let (few, more) = (tables("a", 3), tables("b", 2));
        let mut waiting = WaitingTables::default();
        waiting.add(&few);
        waiting.add(&few.clone());
        assert_eq!((waiting.own_bytes(), waiting.bytes()), (0, few.bytes()));
        assert_eq!(waiting.messages(&"todo".into())[0].as_ptr(), few.message(&"todo".into()).as_ptr(), "written once");
        waiting.add(&more);
        waiting.add(&tables("a", 2));
        assert_eq!((waiting.own_bytes(), waiting.bytes()), (5 * 50, 5 * 50));
        assert_eq!(told(&waiting), (1, ["a0", "a1", "a2", "b0", "b1"].map(str::to_owned).into()));

        let lists: Vec<Tables> = (0..MAX_LISTS + 2).map(|n| tables(&format!("{n}-"), 100)).collect();
        lists.iter().for_each(|list| waiting.add(list));
        let (messages, names) = told(&waiting);
        assert_eq!((messages, names.len()), (MAX_LISTS + 1, 5 + 100 * lists.len()), "no name is lost");
        assert_eq!(waiting.iter().count(), names.len());
        assert!(waiting.own_bytes() < 205 * 60);
    }
}
