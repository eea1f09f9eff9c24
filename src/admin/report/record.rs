//! The report of a record: its fields, and who wrote them.

use serde::ser::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::fmt;
use std::sync::Arc;

/// A JSON value as text. Parsed into a tree, it would take up to a hundred times the memory. Clones share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json(Arc<str>);

impl Json {
    /// Creates a value from JSON; any other text becomes a string.
    pub fn new(text: &str) -> Json {
        match serde_json::from_str::<&RawValue>(text) {
            Ok(_) => Json(text.into()),
            Err(_) => Json(serde_json::Value::from(text).to_string().into()),
        }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if it is `null`.
    pub fn is_null(&self) -> bool {
        &*self.0 == "null"
    }
}

impl Default for Json {
    fn default() -> Json {
        Json("null".into())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(&self.0).map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|value| Json(value.get().into()))
    }
}

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

impl Record {
    /// Returns the length of all its values, in bytes.
    pub fn bytes(&self) -> usize {
        let writes = self.history.iter().flat_map(|change| &change.writes).map(|write| write.value.as_str().len());
        self.fields.iter().map(|field| field.value.as_str().len()).chain(writes).sum()
    }
}

/// The current value of a field, and the write that won.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Field {
    /// The name of the field.
    pub name: String,
    /// Its value.
    pub value: Json,
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
    pub value: Json,
    /// Its stamp.
    pub stamp: String,
    /// True if it is the field's current value.
    pub wins: bool,
    /// True if it was stored after the field's current value, but written before it.
    pub too_late: bool,
    /// True if it has been trimmed from the log and is only known from the history.
    pub trimmed: bool,
}
