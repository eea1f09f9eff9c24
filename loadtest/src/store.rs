//! A device's own database, merged by the very rule of existing clients.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::protocol::{Change, Write};
use crate::snapshot::Snapshot;
use crate::stamp;

/// A field's value and stamp, spelled as received.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// The value.
    pub value: Value,
    /// The time when it was written.
    pub stamp: String,
}

type Records = BTreeMap<String, BTreeMap<String, Cell>>;

/// table → record → field → cell. Nothing is ever removed: a deleted field is null, a deleted record has a `deletedAt`.
#[derive(Clone, Debug, Default)]
pub struct LocalStore {
    tables: BTreeMap<String, Records>,
}

impl LocalStore {
    /// Applies a change from the server: per field, `server stamp >= local stamp` takes the server's value, comparing
    /// the two as strings. That is what existing clients do, in the order received; improving it here would make this a
    /// different client.
    pub fn apply_server(&mut self, change: &Change) {
        for write in change.writes() {
            let newer = self.cell(&change.table, &change.id, &write.field).is_none_or(|held| write.stamp >= held.stamp);
            if newer {
                self.put(&change.table, &change.id, write);
            }
        }
    }

    /// Makes the device's own edit. In real life it is always the newest; when a history is replayed, stamps are not in
    /// the order of arrival, and an edit older than what the device holds does nothing. Stamps are compared as
    /// instants, at the millisecond that the server will store.
    pub fn edit(&mut self, change: &Change) {
        self.edit_adjusted(change, |_| false);
    }

    /// Makes the device's own edit with the stamps that the server stored, some of them adjusted. An adjusted stamp is
    /// the latest that the server allowed when it stored the edit, so that edit wins over everything stored before it,
    /// and so over everything that the device held.
    pub fn edit_adjusted(&mut self, change: &Change, is_adjusted: impl Fn(&str) -> bool) {
        for write in change.writes() {
            let held = self.cell(&change.table, &change.id, &write.field);
            let later = held.is_some_and(|held| stamp::millis(&held.stamp) > stamp::millis(&write.stamp));
            if !later || is_adjusted(&write.field) {
                self.put(&change.table, &change.id, write);
            }
        }
    }

    fn put(&mut self, table: &str, id: &str, write: Write) {
        self.set(table, id, &write.field, Some(Cell { value: write.value, stamp: write.stamp }));
    }

    /// Restores a cell; `None` means it was absent. For undoing edits, not for merging.
    pub fn set(&mut self, table: &str, id: &str, field: &str, cell: Option<Cell>) {
        let records = self.tables.entry(table.to_owned()).or_default();
        let Some(cell) = cell else {
            if let Some(fields) = records.get_mut(id) {
                fields.remove(field);
                if fields.is_empty() {
                    records.remove(id);
                }
            }
            return;
        };
        records.entry(id.to_owned()).or_default().insert(field.to_owned(), cell);
    }

    /// Returns a field, if the device holds it.
    pub fn cell(&self, table: &str, id: &str, field: &str) -> Option<&Cell> {
        self.tables.get(table)?.get(id)?.get(field)
    }

    /// True if the device has received the record, deleted or not.
    pub fn holds(&self, table: &str, id: &str) -> bool {
        self.tables.get(table).is_some_and(|records| records.contains_key(id))
    }

    /// Returns the values without their stamps, for comparison with others.
    pub fn snapshot(&self) -> Snapshot {
        let fields = |cells: &BTreeMap<String, Cell>| {
            cells.iter().map(|(field, cell)| (field.clone(), cell.value.clone())).collect()
        };
        let records = |records: &Records| records.iter().map(|(id, cells)| (id.clone(), fields(cells))).collect();
        let held = self.tables.iter().filter(|(_, of)| !of.is_empty());
        Snapshot(held.map(|(table, of)| (table.clone(), records(of))).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn update(value: Value, stamp: &str) -> Change {
        let fields = json!({"a": {"value": value, "updatedAt": stamp}});
        serde_json::from_value(json!({"table": "t", "id": "r", "op": "update", "fields": fields})).unwrap()
    }

    fn held(store: &LocalStore) -> &Value {
        &store.cell("t", "r", "a").unwrap().value
    }

    #[test]
    fn the_server_wins_ties_and_loses_to_later_stamps() {
        let mut store = LocalStore::default();
        store.apply_server(&update(json!(1), "2024-01-01T10:00:00.000Z"));
        store.apply_server(&update(json!(2), "2024-01-01T10:00:00.000Z"));
        assert_eq!(held(&store), 2);
        store.apply_server(&update(json!(3), "2024-01-01T09:59:59.999Z"));
        assert_eq!(held(&store), 2);
        store.apply_server(&update(Value::Null, "2024-01-01T10:00:00.001Z"));
        assert!(held(&store).is_null());
        assert!(store.holds("t", "r"));
    }

    #[test]
    fn the_comparison_is_of_strings() {
        let mut store = LocalStore::default();
        store.edit(&update(json!("own"), "2024-01-01T10:00:00Z"));
        store.apply_server(&update(json!("later, but '.' sorts before 'Z'"), "2024-01-01T10:00:00.500Z"));
        assert_eq!(held(&store), "own");
    }

    #[test]
    fn an_edit_yields_only_to_a_later_instant() {
        let mut store = LocalStore::default();
        store.apply_server(&update(json!(1), "2024-01-01T10:00:00.000Z"));
        store.edit(&update(json!(2), "2024-01-01T11:00:00+01:00"));
        assert_eq!(held(&store), 2);
        store.edit(&update(json!(3), "2024-01-01T09:00:00Z"));
        assert_eq!(held(&store), 2);
    }

    #[test]
    fn an_insert_and_a_delete_are_writes_of_fields() {
        let change = |value: Value| -> Change { serde_json::from_value(value).unwrap() };
        let mut store = LocalStore::default();
        store.apply_server(&change(
            json!({"table": "t", "id": "r", "op": "delete", "deletedAt": "2024-01-02T00:00:00.000Z"}),
        ));
        let data = json!({"a": 1, "createdAt": "2024-01-01T00:00:00.000Z"});
        store.apply_server(&change(json!({"table": "t", "id": "r", "op": "insert", "data": data})));
        let record = store.snapshot().record("t", "r").cloned().unwrap();
        assert_eq!(record.len(), 3);
        assert_eq!(record["deletedAt"], "2024-01-02T00:00:00.000Z");
    }
}
