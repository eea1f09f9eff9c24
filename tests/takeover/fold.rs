//! The records of a database, folded by the rules alone: from the old table before, from the wire afterwards.

use super::old::Form;
use super::support::{BEGINNING, Cluster, User};
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, PgConnection, Row};
use std::collections::BTreeMap;

/// Fields with their stamps in milliseconds, by app, user, table and record.
pub type Records = BTreeMap<[String; 4], BTreeMap<String, (i64, Value)>>;

fn millis(text: &Value) -> Option<i64> {
    Some(DateTime::parse_from_rfc3339(text.as_str()?).ok()?.timestamp_millis())
}

/// Writes a field: a later stamp wins, and of equal ones the later write.
fn write(records: &mut Records, key: &[String; 4], field: &str, stamp: i64, value: Value) {
    let record = records.entry(key.clone()).or_default();
    if record.get(field).is_none_or(|(held, _)| *held <= stamp) {
        record.insert(field.to_owned(), (stamp, value));
    }
}

/// Folds the old table's rows; returns the number of rows, too.
pub async fn of_old_table(connection: &mut PgConnection, form: Form, table: &str) -> (Records, usize) {
    let stamps = if form == Form::Older { "field_timestamps" } else { "field_meta" };
    let query = format!(
        "select app_id, user_id, table_name, record_id, op, data, {stamps}, created_at from {table} order by created_at, ctid"
    );
    let mut rows = sqlx::query(AssertSqlSafe(query)).fetch(connection);
    let (mut records, mut count) = (Records::new(), 0);
    while let Some(row) = rows.try_next().await.unwrap() {
        count += 1;
        let key = [0, 1, 2, 3].map(|index| row.get::<String, _>(index));
        let data: Option<Value> = row.get(5);
        let data: Map<String, Value> = data.and_then(|data| data.as_object().cloned()).unwrap_or_default();
        let stamps: Value = row.get(6);
        let stored = row.get::<DateTime<Utc>, _>(7).timestamp_millis();
        let member = |name: &str| data.get(name).and_then(millis);
        match row.get::<&str, _>(4) {
            "insert" => {
                let stamp = member("updatedAt").or_else(|| member("createdAt")).unwrap_or(0);
                data.into_iter().for_each(|(name, value)| write(&mut records, &key, &name, stamp, value));
            }
            "update" => data.into_iter().for_each(|(name, value)| {
                write(&mut records, &key, &name, millis(&stamps[&name]).unwrap_or(stored), value);
            }),
            _ => {
                let stamp = millis(&stamps["deletedAt"]).or_else(|| member("deletedAt")).unwrap_or(stored);
                write(&mut records, &key, "deletedAt", stamp, Value::Null);
            }
        }
    }
    (records, count)
}

/// Folds the changes that a device without any data is sent for one user and app; returns their number, too.
pub async fn of_the_wire(cluster: &Cluster, user: &User, app: &str) -> (Records, usize) {
    let mut records = Records::new();
    let mut count = 0;
    for page in cluster.push_all(user, app, BEGINNING, "fresh").await {
        for change in page["serverChanges"].as_array().unwrap() {
            count += 1;
            let name = |member: &str| change[member].as_str().unwrap().to_owned();
            let key = [app.to_owned(), user.id.clone(), name("table"), name("id")];
            match change["op"].as_str().unwrap() {
                "insert" => {
                    let data = change["data"].as_object().unwrap();
                    let member = |name: &str| data.get(name).and_then(millis);
                    // The protocol's rule for an insert without a stamp.
                    let stamp = member("updatedAt").or_else(|| member("createdAt")).unwrap_or(0);
                    data.iter().for_each(|(name, value)| write(&mut records, &key, name, stamp, value.clone()));
                }
                "update" => change["fields"].as_object().unwrap().iter().for_each(|(name, field)| {
                    write(&mut records, &key, name, millis(&field["updatedAt"]).unwrap(), field["value"].clone());
                }),
                _ => write(&mut records, &key, "deletedAt", millis(&change["deletedAt"]).unwrap(), Value::Null),
            }
        }
    }
    (records, count)
}

/// Normalizes the spelling of `updatedAt` and `createdAt` in the data.
pub fn spelled_alike(mut records: Records) -> Records {
    for field in records.values_mut().flat_map(|record| record.iter_mut()) {
        let (name, (_, value)) = field;
        if matches!(name.as_str(), "updatedAt" | "createdAt")
            && let Some(at) = millis(value)
        {
            *value = at.into();
        }
    }
    records
}
