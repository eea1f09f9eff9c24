//! The data that a participant holds, independent of its origin, and the differences between two.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use crate::stamp;

/// Fields by name.
pub type Fields = BTreeMap<String, Value>;

/// table → record → field → value. Includes deleted records, with their `deletedAt`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot(pub BTreeMap<String, BTreeMap<String, Fields>>);

/// A field on which two snapshots disagree; `None` means absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// The record.
    pub id: String,
    /// The field.
    pub field: String,
    /// The value in one of them.
    pub left: Option<Value>,
    /// The value in the other.
    pub right: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| value.as_ref().map_or("(absent)".to_owned(), Value::to_string);
        let Self { table, id, field, left, right } = self;
        write!(f, "{table} / {id} / {field}: {} against {}", shown(left), shown(right))
    }
}

impl Snapshot {
    /// The number of records, including deleted ones.
    pub fn records(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// The fields of one record.
    pub fn record(&self, table: &str, id: &str) -> Option<&Fields> {
        self.0.get(table)?.get(id)
    }

    /// Returns every field in which the two differ, up to `limit`. Values compare as JSON values, the stamps among the
    /// fields (`updatedAt`, `createdAt`, `deletedAt`) as instants.
    pub fn differences(&self, other: &Self, limit: usize) -> Vec<Difference> {
        let keys = |of: &Self| -> BTreeSet<(String, String)> {
            let ids = |(table, records): (&String, &BTreeMap<String, Fields>)| {
                records.keys().map(|id| (table.clone(), id.clone())).collect::<Vec<_>>()
            };
            of.0.iter().flat_map(ids).collect()
        };
        let none = Fields::new();
        let mut found = Vec::new();
        for (table, id) in keys(self).union(&keys(other)) {
            let left = self.record(table, id).unwrap_or(&none);
            let right = other.record(table, id).unwrap_or(&none);
            let fields: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for field in fields {
                let (left, right) = (left.get(field), right.get(field));
                if same(field, left, right) {
                    continue;
                }
                if found.len() == limit {
                    return found;
                }
                found.push(Difference {
                    table: table.clone(),
                    id: id.clone(),
                    field: field.clone(),
                    left: left.cloned(),
                    right: right.cloned(),
                });
            }
        }
        found
    }
}

/// True if two values of the named field are the same to a client.
pub fn same(field: &str, left: Option<&Value>, right: Option<&Value>) -> bool {
    let (Some(left), Some(right)) = (left, right) else { return left.is_none() && right.is_none() };
    if let (Value::String(left), Value::String(right)) = (left, right)
        && matches!(field, "updatedAt" | "createdAt" | "deletedAt")
        && let (Some(left), Some(right)) = (stamp::millis(left), stamp::millis(right))
    {
        return left == right;
    }
    if let (Value::Number(left), Value::Number(right)) = (left, right) {
        return left == right || left.as_f64() == right.as_f64();
    }
    left == right
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn snapshot(value: Value) -> Snapshot {
        Snapshot(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn differences_name_the_place_and_both_values() {
        let left = snapshot(json!({"t": {"r": {"a": 1, "b": null}}}));
        let right = snapshot(json!({"t": {"r": {"a": 2}}, "u": {"s": {"c": true}}}));
        let shown: Vec<String> = left.differences(&right, 10).iter().map(ToString::to_string).collect();
        let expected =
            ["t / r / a: 1 against 2", "t / r / b: null against (absent)", "u / s / c: (absent) against true"];
        assert_eq!(shown, expected);
        assert_eq!(left.differences(&right, 1).len(), 1);
    }

    #[test]
    fn stamps_are_instants_and_numbers_are_numbers() {
        let left = snapshot(json!({"t": {"r": {"updatedAt": "2024-01-01T10:00:00Z", "n": 1}}}));
        let right = snapshot(json!({"t": {"r": {"updatedAt": "2024-01-01T10:00:00.000Z", "n": 1.0}}}));
        assert!(left.differences(&right, 10).is_empty());
        assert!(!same("title", Some(&json!("2024-01-01T10:00:00Z")), Some(&json!("2024-01-01T10:00:00.000Z"))));
    }
}
