//! Why a record is as it is: its changes, and of each field the write that won.

use super::report::{Change, Field, Write};
use crate::protocol::Cursor;
use crate::protocol::merge::{FieldWrite, Rank};
use crate::store::inspect::{InspectError, MAX_CHANGES, RecordChange};
use serde_json::Value;
use std::collections::BTreeMap;

/// The fields of a record as they stand, its changes, and whether there are older ones that are not among them.
///
/// By the rules of the protocol: the later stamp wins, and of equal stamps what was stored later.
pub fn explain(changes: Vec<RecordChange>) -> Result<(Vec<Field>, Vec<Change>, bool), InspectError> {
    let truncated = changes.len() > MAX_CHANGES;
    let skipped = usize::from(truncated);
    let mut best: BTreeMap<String, (Rank, Field)> = BTreeMap::new();
    let mut history = Vec::with_capacity(changes.len());
    for RecordChange { change, device } in changes.into_iter().skip(skipped) {
        let cursor = Cursor::after(change.at).to_string();
        let writes = change.fields()?;
        for write in &writes {
            let rank = (write.stamp, change.at);
            if best.get(&*write.name).is_none_or(|(known, _)| rank > *known) {
                let field = Field {
                    name: write.name.to_string(),
                    value: value(write),
                    stamp: write.stamp.to_string(),
                    device: device.clone(),
                    cursor: cursor.clone(),
                };
                best.insert(field.name.clone(), (rank, field));
            }
        }
        let writes = writes.iter().map(|write| Write {
            field: write.name.to_string(),
            value: value(write),
            stamp: write.stamp.to_string(),
            wins: false,
        });
        let (id, op) = (change.id.to_string(), change.op.name().to_owned());
        history.push(Change { id, writes: writes.collect(), cursor, op, device });
    }
    for change in &mut history {
        for write in &mut change.writes {
            write.wins = best.get(&write.field).is_some_and(|(_, field)| field.cursor == change.cursor);
        }
    }
    Ok((best.into_values().map(|(_, field)| field).collect(), history, truncated))
}

/// What PostgreSQL keeps as jsonb is JSON.
fn value(write: &FieldWrite<'_>) -> Value {
    serde_json::from_str(&write.value).unwrap_or_else(|_| Value::String(write.value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::merge::StoredChange;
    use crate::protocol::push::Op;
    use serde_json::json;

    fn change(at: i64, device: &str, op: Op, data: Value, stamps: Value) -> RecordChange {
        let change = StoredChange {
            id: uuid::Uuid::from_u128(at as u128),
            at,
            table: "tasks".into(),
            record: "a".into(),
            op,
            data: Some(data.to_string()),
            stamps: stamps.to_string(),
            extra: None,
            is_own: false,
            rows_trimmed: false,
        };
        RecordChange { change, device: device.into() }
    }

    #[test]
    fn the_later_stamp_wins_and_of_equal_stamps_what_was_stored_later() {
        let stamp = |second: u32| format!("2024-01-01T10:00:{second:02}.000Z");
        let inserted = json!({ "title": "a", "done": false, "createdAt": stamp(1), "updatedAt": stamp(1) });
        let (fields, history, truncated) = explain(vec![
            change(20, "phone", Op::Insert, inserted, json!({})),
            change(40, "laptop", Op::Update, json!({ "title": "late" }), json!({ "title": stamp(9) })),
            change(
                60,
                "phone",
                Op::Update,
                json!({ "title": "early", "done": true }),
                json!({ "title": stamp(5), "done": stamp(1) }),
            ),
            change(80, "laptop", Op::Delete, json!({}), json!({ "deletedAt": stamp(10) })),
        ])
        .unwrap();
        let won = |name: &str| {
            let field = fields.iter().find(|field| field.name == name).unwrap();
            (field.value.clone(), field.device.as_str(), field.stamp.clone())
        };
        assert_eq!(won("title"), (json!("late"), "laptop", stamp(9)));
        assert_eq!(won("done"), (json!(true), "phone", stamp(1)), "a tie, stored later");
        assert_eq!(won("deletedAt"), (json!(stamp(10)), "laptop", stamp(10)));
        let wins: Vec<Vec<(&str, bool)>> = history
            .iter()
            .map(|change| change.writes.iter().map(|write| (write.field.as_str(), write.wins)).collect())
            .collect();
        assert!(wins[0].contains(&("title", false)) && wins[0].contains(&("createdAt", true)), "{wins:?}");
        assert_eq!(wins[1], [("title", true)]);
        assert!(wins[2].contains(&("title", false)) && wins[2].contains(&("done", true)));
        assert_eq!(wins[3], [("deletedAt", true)]);
        assert!(!truncated);
    }
}
