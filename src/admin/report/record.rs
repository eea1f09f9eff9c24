//! What is told of a record: its fields, and who wrote them.

use serde::{Deserialize, Serialize};

/// A record, and why it is as it is.
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
    /// Whether it is deleted.
    pub deleted: bool,
    /// Its fields, as they stand.
    pub fields: Vec<Field>,
    /// All changes of it that are stored, oldest first.
    pub history: Vec<Change>,
    /// Whether there are more than are listed.
    pub truncated: bool,
}

/// A field as it stands, and the write that won.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Field {
    /// The name of the field.
    pub name: String,
    /// Its value.
    pub value: serde_json::Value,
    /// The stamp that won.
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
    /// What it wrote, field by field.
    pub writes: Vec<Write>,
}

/// What a change wrote to one field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Write {
    /// The field.
    pub field: String,
    /// The value.
    pub value: serde_json::Value,
    /// Its stamp.
    pub stamp: String,
    /// Whether it is what the field has now.
    pub wins: bool,
    /// Whether it has been taken out of the log, and is known from its history only.
    pub trimmed: bool,
}
