//! Push bodies: what the schema allows is stored, and what it rejects is refused.

use crate::documents::OpenApi;
use crate::support::*;
use reqwest::StatusCode;
use serde_json::{Value, json};

const AT: &str = "2024-01-01T10:05:00.000Z";

/// Changes as sent by clients of all generations.
fn changes() -> Vec<Value> {
    vec![
        insert("tasks", "a", "Milk", AT),
        json!({ "table": "tasks", "id": "b", "op": "insert" }),
        json!({ "table": "tasks", "id": "c", "op": "insert", "data": null }),
        json!({ "table": "tasks", "id": "d", "op": "insert", "data": { "updatedAt": "yesterday", "createdAt": 7 } }),
        update("tasks", "e", "title", "Eggs", "2024-01-01T12:05:00.123456+02:00"),
        json!({ "table": "tasks", "id": "f", "op": "update", "fields": {} }),
        json!({ "table": "tasks", "id": "g", "op": "update", "fields": { "done": { "value": [1, { "a": null }], "at": AT } } }),
        json!({ "table": "tasks", "id": "h", "op": "update", "fields": { "done": { "at": AT, "updatedAt": null } } }),
        json!({ "table": "tasks", "id": "i", "op": "delete" }),
        json!({ "table": "tasks", "id": "j", "op": "delete", "deletedAt": AT, "eventId": 7, "actor": "me", "origin": [] }),
        json!({ "table": "tasks", "id": "k", "op": "insert", "data": {}, "fields": 7, "deletedAt": 7, "schemaVersion": {} }),
    ]
}

/// Changes that no client may send.
fn wrong_changes() -> Vec<Value> {
    let update = |fields: Value| json!({ "table": "tasks", "id": "a", "op": "update", "fields": fields });
    vec![
        json!(7),
        json!([]),
        json!({ "id": "a", "op": "delete" }),
        json!({ "table": "", "id": "a", "op": "delete" }),
        json!({ "table": "a".repeat(256), "id": "a", "op": "delete" }),
        json!({ "table": "a\u{0}b", "id": "a", "op": "delete" }),
        json!({ "table": 7, "id": "a", "op": "delete" }),
        json!({ "table": "tasks", "op": "delete" }),
        json!({ "table": "tasks", "id": "", "op": "delete" }),
        json!({ "table": "tasks", "id": "a".repeat(1025), "op": "delete" }),
        json!({ "table": "tasks", "id": "a" }),
        json!({ "table": "tasks", "id": "a", "op": "upsert" }),
        json!({ "table": "tasks", "id": "a", "op": "delete", "deletedAt": "yesterday" }),
        json!({ "table": "tasks", "id": "a", "op": "delete", "deletedAt": 7 }),
        json!({ "table": "tasks", "id": "a", "op": "insert", "data": [] }),
        json!({ "table": "tasks", "id": "a", "op": "insert", "data": "Milk" }),
        json!({ "table": "tasks", "id": "a", "op": "update" }),
        update(json!([])),
        update(json!({ "title": "Milk" })),
        update(json!({ "title": { "value": "Milk" } })),
        update(json!({ "title": { "value": "Milk", "updatedAt": null } })),
        update(json!({ "title": { "value": "Milk", "updatedAt": "yesterday" } })),
        update(json!({ "title": { "value": "Milk", "at": 7 } })),
        update(json!({ "a".repeat(1025): { "value": "Milk", "at": AT } })),
    ]
}

#[tokio::test]
async fn the_schema_allows_what_is_stored_and_refuses_what_is_refused() {
    let (cluster, user) = (shared().await, shared().await.user());
    let described = OpenApi::load().request(&("post".to_owned(), "/sync/{appId}".to_owned()));
    let around = |change: &Value| json!({ "clientId": "phone", "changes": [change] });
    let mut bodies: Vec<(Value, bool)> = changes().iter().map(|change| (around(change), true)).collect();
    bodies.extend(wrong_changes().iter().map(|change| (around(change), false)));
    for (members, allowed) in [
        (json!({}), true),
        (json!({ "since": "", "changes": null, "whatever": [] }), true),
        (json!({ "since": null, "changes": [] }), true),
        (json!({ "since": "2024-01-01T10:05:00+02:00", "schemaVersion": 1 }), true),
        (json!({ "since": AT, "schemaVersion": "2", "changes": changes() }), true),
        (json!({ "since": "yesterday" }), false),
        (json!({ "since": 7 }), false),
        (json!({ "changes": {} }), false),
        (json!({ "schemaVersion": {} }), false),
        (json!({ "clientId": 7 }), false),
        (json!({ "clientId": "a".repeat(256) }), false),
    ] {
        let mut body = json!({ "clientId": "phone" });
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        bodies.push((body, allowed));
    }
    bodies.push((json!([]), false));
    for (body, allowed) in bodies {
        let shown: String = body.to_string().chars().take(200).collect();
        assert_eq!(described.is_valid(&body), allowed, "by the schema: {shown}");
        let reply = cluster.push_raw(&user, "todo", body.to_string()).await;
        let expected = if allowed { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        assert_eq!(reply.status, expected, "by the server: {shown}: {reply:?}");
    }
}
