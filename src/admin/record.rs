//! Explains a record: its changes, and the winning write of each field.

use super::report::{Change, Field, Json, Write};
use crate::protocol::Cursor;
use crate::protocol::merge::Rank;
use crate::store::inspect::InspectError;
use crate::store::lifecycle::LoggedChange;
use std::collections::BTreeMap;

/// Returns a record's current fields, as far as these changes tell, and the changes.
///
/// It follows the rules of the protocol: the later stamp wins, and of equal stamps what was stored later. Fields that
/// were trimmed from a change are reported with the rest of it.
pub fn explain(logged: &[LoggedChange]) -> Result<(Vec<Field>, Vec<Change>), InspectError> {
    let mut best: BTreeMap<String, (Rank, Field)> = BTreeMap::new();
    let mut changes: BTreeMap<i64, Change> = BTreeMap::new();
    for logged in logged {
        let at = logged.change.at;
        let change = changes.entry(at).or_insert_with(|| Change {
            id: logged.change.id.to_string(),
            cursor: Cursor::after(at).to_string(),
            op: logged.change.op.name().to_owned(),
            device: logged.client.clone(),
            writes: Vec::new(),
        });
        for (name, json, stamp) in logged.fields()? {
            let (rank, value) = ((stamp, at), Json::new(&json));
            let stamp = stamp.to_string();
            change.writes.push(Write {
                field: name.clone(),
                value: value.clone(),
                stamp: stamp.clone(),
                wins: false,
                too_late: false,
                trimmed: logged.trimmed_at.is_some(),
            });
            if best.get(&name).is_none_or(|(known, _)| rank > *known) {
                let (device, cursor) = (change.device.clone(), change.cursor.clone());
                best.insert(name.clone(), (rank, Field { name, value, stamp, device, cursor }));
            }
        }
    }
    for (at, change) in &mut changes {
        for write in &mut change.writes {
            let winner = best.get(&write.field).map(|((_, at), _)| at);
            write.wins = winner == Some(at);
            write.too_late = winner.is_some_and(|winner| winner < at);
        }
    }
    Ok((best.into_values().map(|(_, field)| field).collect(), changes.into_values().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::merge::StoredChange;
    use crate::protocol::push::Op;
    use serde_json::{Value, json};

    fn change(at: i64, device: &str, op: Op, data: Value, stamps: Value) -> LoggedChange {
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
        LoggedChange { change, client: device.into(), trimmed_at: None }
    }

    #[test]
    fn the_later_stamp_wins_and_of_equal_stamps_what_was_stored_later() {
        let stamp = |second: u32| format!("2024-01-01T10:00:{second:02}.000Z");
        let mut logged = vec![
            change(20, "phone", Op::Insert, json!({}), json!({})),
            change(40, "laptop", Op::Update, json!({ "title": "late" }), json!({ "title": stamp(9) })),
            change(
                60,
                "phone",
                Op::Update,
                json!({ "title": "early", "done": true }),
                json!({ "title": stamp(5), "done": stamp(1) }),
            ),
            change(80, "laptop", Op::Delete, json!({}), json!({ "deletedAt": stamp(10) })),
        ];
        // The part of the first change that compaction removes, and the part that stays.
        logged[0].change.data = Some(json!({ "createdAt": stamp(1), "updatedAt": stamp(1) }).to_string());
        let trimmed = change(
            20,
            "phone",
            Op::Insert,
            json!({ "title": "a", "done": false }),
            json!({ "title": stamp(1), "done": stamp(1) }),
        );
        logged.push(LoggedChange { trimmed_at: Some(90), ..trimmed });
        let (fields, history) = explain(&logged).unwrap();
        let won = |name: &str| {
            let field = fields.iter().find(|field| field.name == name).unwrap();
            (serde_json::to_value(&field.value).unwrap(), field.device.as_str(), field.stamp.clone())
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
        let trimmed: Vec<&str> =
            history[0].writes.iter().filter(|write| write.trimmed).map(|write| write.field.as_str()).collect();
        assert_eq!((trimmed, history.len()), (vec!["done", "title"], 4));
    }
}
