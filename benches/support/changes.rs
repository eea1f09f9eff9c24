//! Pushes and stored changes like those of real apps: a third inserts of ten members, two thirds updates of two fields
//! each, and some deletes.

use mana_sync::protocol::push::{Push, StampPolicy, read_push};
use mana_sync::protocol::{Cursor, Stamp, merge::StoredChange};
use serde_json::{Value, json};

/// When the changes were made; the server reads them an hour later, so that no stamp is ahead of it.
const MADE: i64 = 1_767_322_800_000;

/// The policy of a server an hour later.
pub fn policy() -> StampPolicy {
    StampPolicy { now: Stamp::from_millis(MADE + 3_600_000), max_ahead: 300_000 }
}

/// The position of the log before the first of them, in microseconds.
pub const LOG_BEGINS: i64 = (MADE + 3_600_000) * 1_000;

/// Returns a body with this many changes.
pub fn body(changes: usize) -> Vec<u8> {
    let changes: Vec<Value> = (0..changes).map(change).collect();
    let body = json!({ "clientId": "chrome-tab-abc123", "since": "2026-01-02T03:04:05.123456Z", "changes": changes });
    body.to_string().into_bytes()
}

fn change(index: usize) -> Value {
    let stamp = Stamp::from_millis(MADE + index as i64 * 37).to_string();
    let (table, id) = (["tasks", "lists", "comments"][index % 3], format!("0f8fad5b-d9cb-469f-a165-{index:012}"));
    match index % 10 {
        0..3 => json!({ "table": table, "id": id, "op": "insert", "data": {
            "id": id, "title": format!("Buy milk and {index} eggs"), "notes": "The ones from the market, \"organic\" if they have them",
            "done": false, "priority": index % 5, "tags": ["home", "errand"], "listId": "inbox", "position": 1024.5,
            "createdAt": stamp, "updatedAt": stamp } }),
        9 => json!({ "table": table, "id": id, "op": "delete", "deletedAt": stamp }),
        _ => json!({ "table": table, "id": id, "op": "update", "fields": {
            "title": { "value": format!("Buy milk and {index} eggs, please"), "updatedAt": stamp },
            "done": { "value": index.is_multiple_of(2), "updatedAt": stamp } } }),
    }
}

/// Returns a parsed push of this many changes.
pub fn push(changes: usize) -> Push {
    match read_push(&body(changes), None, policy(), usize::MAX) {
        Ok(push) => push,
        Err(error) => panic!("the benchmark's own push is refused: {error}"),
    }
}

/// Returns the same changes as read back from the log.
pub fn stored(changes: usize) -> Vec<StoredChange> {
    let stored = push(changes).changes.into_iter().zip(1_i64..).map(|(change, place)| StoredChange {
        id: uuid::Uuid::from_u128(place as u128),
        at: LOG_BEGINS + place * Cursor::STEP,
        table: change.table,
        record: change.record,
        op: change.op,
        data: change.data,
        stamps: change.stamps,
        extra: change.extra,
        is_own: false,
        rows_trimmed: false,
    });
    stored.collect()
}
