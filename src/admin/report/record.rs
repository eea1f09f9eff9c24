//! The report of a record: its fields, and who wrote them.

use serde::{Deserialize, Serialize};

/// A record, with its history.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// The user.
    pub user_id: String,
    /// The app.
    pub app: String,
    /// The table.
    pub table: String,
    /// The record.
    pub id: String,
    /// True if it is deleted.
    pub deleted: bool,
    /// Its current fields.
    pub fields: Vec<Field>,
    /// All its stored changes, oldest first.
    pub history: Vec<Change>,
    /// True if there are more than are listed.
    pub truncated: bool,
}

/// The current value of a field, and the write that won.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Field {
    /// The name of the field.
    pub name: String,
    /// Its value.
    pub value: serde_json::Value,
    /// The winning stamp.
    pub stamp: String,
    /// The device that wrote it.
    pub device: String,
    /// The position of the change in its log.
    pub cursor: String,
}

/// A stored change of a record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Change {
    /// The id of its row.
    pub id: String,
    /// The position in the log.
    pub cursor: String,
    /// `insert`, `update` or `delete`.
    pub op: String,
    /// The device that wrote it.
    pub device: String,
    /// Its writes, field by field.
    pub writes: Vec<Write>,
}

/// A change's write to one field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Write {
    /// The field.
    pub field: String,
    /// The value.
    pub value: serde_json::Value,
    /// Its stamp.
    pub stamp: String,
    /// True if it is the field's current value.
    pub wins: bool,
    /// True if it has been trimmed from the log and is only known from the history.
    pub trimmed: bool,
}
