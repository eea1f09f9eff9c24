//! Computes what all devices must hold in the end, from the stored rows by the protocol's rules alone: per field the
//! later stamp wins, and of equal stamps the change stored later (G3).

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::PgPool;

use crate::protocol::{Change, FieldWrite, Op};
use crate::snapshot::Snapshot;
use crate::stamp;

/// The reasons why rows could not be folded: each is a row that the server should never have stored.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// The stored changes could not be read.
    #[error("the stored changes could not be read")]
    Read(#[source] sqlx::Error),
    /// A stored change lacks what its operation needs.
    #[error("the stored {op} of {table}/{id} has no {what}")]
    Missing {
        /// The operation.
        op: String,
        /// The table.
        table: String,
        /// The record.
        id: String,
        /// The missing part.
        what: &'static str,
    },
    /// A stored stamp is not a time.
    #[error("the stored {op} of {table}/{id} has the stamp {stamp:?}, which is not an RFC 3339 time")]
    Stamp {
        /// The operation.
        op: String,
        /// The table.
        table: String,
        /// The record.
        id: String,
        /// The stamp.
        stamp: String,
    },
}

/// A row of `sync_changes`, of one user and app.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Row {
    /// The table.
    pub table_name: String,
    /// The record.
    pub record_id: String,
    /// `insert`, `update` or `delete`.
    pub op: String,
    /// The values.
    pub data: Option<Value>,
    /// The stamps of an update, by field.
    pub field_timestamps: Value,
    /// The device that stored it.
    pub client_id: String,
    /// Its position in the log.
    pub created_at: DateTime<Utc>,
}

/// Reads the rows of one user and app in the order of storing.
pub async fn read_rows(pool: &PgPool, user: &str, app: &str) -> Result<Vec<Row>, FoldError> {
    let query = "select table_name, record_id, op, data, field_timestamps, client_id, created_at \
                 from sync_changes where user_id = $1 and app_id = $2 order by created_at";
    sqlx::query_as(query).bind(user).bind(app).fetch_all(pool).await.map_err(FoldError::Read)
}

/// Folds rows, given in the order of storing.
pub fn fold_rows(rows: &[Row]) -> Result<Snapshot, FoldError> {
    let mut stamps: HashMap<(String, String, String), i64> = HashMap::new();
    let mut folded = Snapshot::default();
    for row in rows {
        for (field, value, stamp) in row.writes()? {
            let key = (row.table_name.clone(), row.record_id.clone(), field.clone());
            if stamps.get(&key).is_some_and(|&held| held > stamp) {
                continue;
            }
            stamps.insert(key, stamp);
            let records = folded.0.entry(row.table_name.clone()).or_default();
            records.entry(row.record_id.clone()).or_default().insert(field, value);
        }
    }
    Ok(folded)
}

impl Row {
    /// Returns the field writes of the row with the instants that decide.
    fn writes(&self) -> Result<Vec<(String, Value, i64)>, FoldError> {
        match self.op.as_str() {
            "insert" => {
                let data = self.object("data")?;
                let own = |name: &str| data.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
                let stamp = match own("updatedAt").or_else(|| own("createdAt")) {
                    Some(stamp) => self.instant(stamp)?,
                    // It counts as written at the beginning of time.
                    None => 0,
                };
                Ok(data.iter().map(|(field, value)| (field.clone(), value.clone(), stamp)).collect())
            }
            "update" => {
                let data = self.object("data")?;
                let write = |(field, value): (&String, &Value)| {
                    Ok((field.clone(), value.clone(), self.instant(self.field_stamp(field)?)?))
                };
                data.iter().map(write).collect()
            }
            _ => {
                let stamp = self.field_stamp("deletedAt")?;
                Ok(vec![("deletedAt".to_owned(), Value::String(stamp.to_owned()), self.instant(stamp)?)])
            }
        }
    }

    /// Returns the row as a change on the wire, for a reader without edits of its own.
    pub fn as_change(&self) -> Result<Change, FoldError> {
        let op = match self.op.as_str() {
            "insert" => Op::Insert { data: self.object("data")?.clone() },
            "update" => {
                let mut fields = BTreeMap::new();
                for (field, value) in self.object("data")? {
                    let updated_at = self.field_stamp(field)?.to_owned();
                    fields.insert(field.clone(), FieldWrite { value: value.clone(), updated_at });
                }
                Op::Update { fields }
            }
            _ => Op::Delete { deleted_at: Some(self.field_stamp("deletedAt")?.to_owned()) },
        };
        Ok(Change { table: self.table_name.clone(), id: self.record_id.clone(), op })
    }

    fn object(&self, what: &'static str) -> Result<&Map<String, Value>, FoldError> {
        self.data.as_ref().and_then(Value::as_object).ok_or_else(|| self.missing(what))
    }

    fn field_stamp(&self, field: &str) -> Result<&str, FoldError> {
        let stamp = self.field_timestamps.get(field).and_then(Value::as_str);
        stamp.ok_or_else(|| self.missing("stamp for each of its fields"))
    }

    fn instant(&self, stamp: &str) -> Result<i64, FoldError> {
        let Self { op, table_name, record_id, .. } = self;
        stamp::millis(stamp).ok_or_else(|| FoldError::Stamp {
            op: op.clone(),
            table: table_name.clone(),
            id: record_id.clone(),
            stamp: stamp.to_owned(),
        })
    }

    fn missing(&self, what: &'static str) -> FoldError {
        let Self { op, table_name, record_id, .. } = self;
        FoldError::Missing { op: op.clone(), table: table_name.clone(), id: record_id.clone(), what }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(op: &str, data: Value, field_timestamps: Value) -> Row {
        Row {
            table_name: "t".to_owned(),
            record_id: "r".to_owned(),
            op: op.to_owned(),
            data: (!data.is_null()).then_some(data),
            field_timestamps,
            client_id: "d".to_owned(),
            created_at: DateTime::from_timestamp_millis(1_704_103_200_000).unwrap(),
        }
    }

    #[test]
    fn later_stamps_win_and_ties_go_to_the_row_stored_later() {
        let rows = [
            row("insert", json!({"a": 0, "b": 0, "updatedAt": "2024-01-01T10:00:00.000Z"}), json!({})),
            row("update", json!({"a": 1}), json!({"a": "2024-01-01T10:00:00.000Z"})),
            row("update", json!({"b": 1}), json!({"b": "2024-01-01T09:59:59.999Z"})),
            row("update", json!({"c": null}), json!({"c": "2024-01-01T10:00:00.000Z"})),
            row("delete", Value::Null, json!({"deletedAt": "2024-01-01T11:00:00.000Z"})),
        ];
        let folded = fold_rows(&rows).unwrap();
        let record = serde_json::to_value(folded.record("t", "r").unwrap()).unwrap();
        let expected = json!({"a": 1, "b": 0, "c": null, "updatedAt": "2024-01-01T10:00:00.000Z", "deletedAt": "2024-01-01T11:00:00.000Z"});
        assert_eq!(record, expected);
    }

    #[test]
    fn an_insert_without_stamps_counts_from_the_beginning_of_time() {
        let older = row("update", json!({"a": 1}), json!({"a": "1969-12-31T23:59:59.999Z"}));
        let newer = row("update", json!({"b": 1}), json!({"b": "1970-01-01T00:00:00.001Z"}));
        let folded = fold_rows(&[older, newer, row("insert", json!({"a": 0, "b": 0}), json!({}))]).unwrap();
        let record = folded.record("t", "r").unwrap();
        assert_eq!((&record["a"], &record["b"]), (&json!(0), &json!(1)));
    }

    #[test]
    fn a_row_that_should_not_be_there_is_an_error() {
        let missing = fold_rows(&[row("update", json!({"a": 1}), json!({}))]);
        assert!(matches!(missing, Err(FoldError::Missing { .. })));
        let stamp = fold_rows(&[row("update", json!({"a": 1}), json!({"a": "soon"}))]);
        assert!(matches!(stamp, Err(FoldError::Stamp { .. })));
    }

    #[test]
    fn a_row_reads_as_the_change_that_it_was() {
        let change = row("delete", Value::Null, json!({"deletedAt": "2024-01-01T11:00:00.000Z"})).as_change().unwrap();
        let wire = json!({"table": "t", "id": "r", "op": "delete", "deletedAt": "2024-01-01T11:00:00.000Z"});
        assert_eq!(serde_json::to_value(change).unwrap(), wire);
    }
}
