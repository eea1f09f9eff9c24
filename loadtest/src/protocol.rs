//! The wire types of a client, from an independent reading of the protocol.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::stamp;

/// The cursor that existing clients start from.
pub const BEGINNING: &str = "1970-01-01T00:00:00.000Z";
/// Maximum number of changes in an answer to a pull.
pub const PULL_PAGE: usize = 1_000;

/// An insert, update or delete of one record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The table.
    pub table: String,
    /// The record.
    pub id: String,
    /// The operation.
    #[serde(flatten)]
    pub op: Op,
}

/// The operation of a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Op {
    /// Creates a record.
    Insert {
        /// Its values.
        data: Map<String, Value>,
    },
    /// Writes some fields of a record.
    Update {
        /// The fields, by name.
        fields: BTreeMap<String, FieldWrite>,
    },
    /// Deletes a record.
    Delete {
        /// The time of deletion, according to its device.
        #[serde(rename = "deletedAt", default, skip_serializing_if = "Option::is_none")]
        deleted_at: Option<String>,
    },
}

/// The new value of a field, and when it was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ReadField")]
pub struct FieldWrite {
    /// The new value.
    pub value: Value,
    /// When it was written.
    #[serde(rename = "updatedAt")]
    pub updated_at: String,
}

/// A field as received: some generations of clients call its stamp `at`, others `updatedAt`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadField {
    #[serde(default)]
    value: Value,
    updated_at: Option<String>,
    at: Option<String>,
}

/// A field that generations of clients would read differently.
#[derive(Debug, thiserror::Error)]
pub enum FieldError {
    /// A field has no stamp.
    #[error("a field has no stamp")]
    NoStamp,
    /// The two stamps of a field differ.
    #[error("the stamps of a field differ: at is {at:?}, updatedAt {updated_at:?}")]
    StampsDiffer {
        /// One of them.
        at: String,
        /// The other one.
        updated_at: String,
    },
}

impl TryFrom<ReadField> for FieldWrite {
    type Error = FieldError;

    fn try_from(ReadField { value, updated_at, at }: ReadField) -> Result<Self, FieldError> {
        let updated_at = match (updated_at, at) {
            (Some(updated_at), Some(at)) if at != updated_at => {
                return Err(FieldError::StampsDiffer { at, updated_at });
            }
            (Some(stamp), _) | (None, Some(stamp)) => stamp,
            (None, None) => return Err(FieldError::NoStamp),
        };
        Ok(FieldWrite { value, updated_at })
    }
}

/// The body of `POST /sync/{appId}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushRequest {
    /// The device that pushes.
    pub client_id: String,
    /// The cursor up to which it has read.
    pub since: String,
    /// The changes.
    pub changes: Vec<Change>,
}

/// The answer to a push or a pull.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncAnswer {
    /// Other devices' changes, oldest first.
    pub server_changes: Vec<Change>,
    /// Pushed values that lost to some of these.
    #[serde(default)]
    pub conflicts: Vec<Value>,
    /// The cursor to continue from.
    pub synced_until: String,
    /// True if there is more.
    pub has_more: bool,
    /// Pushed changes whose stamps were too far ahead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adjusted: Vec<Adjusted>,
}

/// A change with stamps that were too far ahead, and the stamp that the server stored instead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Adjusted {
    /// The index of the change in the push.
    pub index: usize,
    /// The table.
    pub table: String,
    /// The record.
    pub id: String,
    /// The fields of an update; `updatedAt`, `createdAt` or `deletedAt` if the stamp is the record's own.
    pub fields: Vec<String>,
    /// The stored stamp.
    pub updated_at: String,
}

/// The data of one `changes` event of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableDelta {
    /// The table.
    pub table: String,
    /// Its changes, oldest first.
    pub changes: Vec<Change>,
    /// The cursor of its page.
    pub synced_until: String,
    /// True if there is more.
    pub has_more: bool,
}

/// A write of one field, with the stamp that decides whether it wins.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// The field.
    pub field: String,
    /// The value.
    pub value: Value,
    /// Empty if the change has no stamp at all, which is older than any.
    pub stamp: String,
}

impl Change {
    /// Returns the field writes of this change: all fields of an insert with the record's `updatedAt`, or else its
    /// `createdAt`; each field of an update with its own stamp; the field `deletedAt` of a delete.
    pub fn writes(&self) -> Vec<Write> {
        match &self.op {
            Op::Insert { data } => {
                let own = |name: &str| data.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
                let stamp = own("updatedAt").or_else(|| own("createdAt")).unwrap_or_default();
                let write = |(field, value): (&String, &Value)| Write {
                    field: field.clone(),
                    value: value.clone(),
                    stamp: stamp.to_owned(),
                };
                data.iter().map(write).collect()
            }
            Op::Update { fields } => fields
                .iter()
                .map(|(field, write)| Write {
                    field: field.clone(),
                    value: write.value.clone(),
                    stamp: write.updated_at.clone(),
                })
                .collect(),
            Op::Delete { deleted_at } => {
                let stamp = deleted_at.clone().unwrap_or_default();
                vec![Write { field: "deletedAt".to_owned(), value: Value::String(stamp.clone()), stamp }]
            }
        }
    }

    /// Replaces a stamp by the one the server stored, as given by an entry of `adjusted`.
    pub fn adjust(&mut self, field: &str, stored: &str) {
        match &mut self.op {
            Op::Insert { data } => {
                data.insert(field.to_owned(), Value::String(stored.to_owned()));
            }
            Op::Update { fields } => {
                if let Some(write) = fields.get_mut(field) {
                    stored.clone_into(&mut write.updated_at);
                }
            }
            Op::Delete { deleted_at } => *deleted_at = Some(stored.to_owned()),
        }
    }

    /// Returns the same change with every stamp spelled as by `toISOString`.
    pub fn with_canonical_stamps(mut self) -> Self {
        let respell = |text: &mut String| {
            if let Some(spelled) = stamp::canonical(text) {
                *text = spelled;
            }
        };
        match &mut self.op {
            Op::Insert { data } => {
                for name in ["updatedAt", "createdAt"] {
                    if let Some(Value::String(text)) = data.get_mut(name) {
                        respell(text);
                    }
                }
            }
            Op::Update { fields } => fields.values_mut().for_each(|write| respell(&mut write.updated_at)),
            Op::Delete { deleted_at } => deleted_at.iter_mut().for_each(respell),
        }
        self
    }
}

/// True if a cursor is the beginning, however it is spelled.
pub fn is_beginning(cursor: &str) -> bool {
    cursor.is_empty() || chrono::DateTime::parse_from_rfc3339(cursor).is_ok_and(|at| at == chrono::DateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_read_and_write_as_the_protocol_shows_them() {
        let wire = json!([
            {"table": "todos", "id": "1", "op": "insert", "data": {"title": "Milk", "updatedAt": "2024-01-01T10:05:00Z"}},
            {"table": "todos", "id": "2", "op": "update", "fields": {"title": {"value": null, "updatedAt": "2024-01-01T10:05:00Z"}}},
            {"table": "todos", "id": "3", "op": "delete", "deletedAt": "2024-01-01T10:06:00Z"}
        ]);
        let changes: Vec<Change> = serde_json::from_value(wire.clone()).unwrap();
        assert_eq!(serde_json::to_value(&changes).unwrap(), wire);
        let at: Change = serde_json::from_value(
            json!({"table": "t", "id": "r", "op": "update", "fields": {"a": {"value": 1, "at": "x"}}}),
        )
        .unwrap();
        assert_eq!(at.writes()[0].stamp, "x");
    }

    #[test]
    fn an_inserts_fields_carry_updated_at_else_created_at() {
        let insert = |data: Value| -> Change {
            serde_json::from_value(json!({"table": "t", "id": "r", "op": "insert", "data": data})).unwrap()
        };
        assert_eq!(insert(json!({"a": 1, "createdAt": "c", "updatedAt": "u"})).writes()[0].stamp, "u");
        assert_eq!(insert(json!({"a": 1, "createdAt": "c"})).writes()[0].stamp, "c");
        assert_eq!(insert(json!({"a": 1})).writes()[0].stamp, "");
    }

    #[test]
    fn the_beginning_has_many_spellings() {
        for spelled in ["", BEGINNING, "1970-01-01T00:00:00Z", "1970-01-01T01:00:00.000000+01:00"] {
            assert!(is_beginning(spelled), "{spelled}");
        }
        assert!(!is_beginning("1970-01-01T00:00:00.000001Z"));
    }
}
