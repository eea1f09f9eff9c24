//! Members of a change that the protocol does not name, and stamps under both of their names.

use super::AT;
use super::support::live::Events;
use super::support::*;
use reqwest::Method;
use serde_json::{Value, json};

/// A change of each kind with extra members.
fn changes() -> Vec<Value> {
    let with = |mut change: Value, members: Value| {
        change.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        change
    };
    let actor = json!({ "kind": "agent", "id": "x", "nested": { "a": [1, null, "\u{1f600}"] } });
    vec![
        with(insert("todos", "a", "Milk", AT), json!({ "actor": actor, "origin": "agent" })),
        with(update("todos", "b", "title", "Eggs", AT), json!({ "spaceId": "home", "schemaVersion": 9 })),
        with(
            json!({ "table": "todos", "id": "c", "op": "delete", "deletedAt": AT }),
            json!({ "origin": null, "x y": true }),
        ),
        with(json!({ "table": "todos", "id": "d", "op": "delete", "deletedAt": AT }), json!({})),
    ]
}

/// Checks what comes back: the same members, the body's schema version if a change had none, and our event id.
fn check(received: &Value) {
    let received = received.as_array().unwrap();
    assert_eq!(received.len(), 4, "{received:?}");
    for (sent, got) in changes().iter().zip(received) {
        let mut got = got.clone();
        let members = got.as_object_mut().unwrap();
        assert!(members.remove("eventId").is_some_and(|id| id.as_str().is_some_and(|id| id.len() == 36)));
        let mut sent = sent.clone();
        sent.as_object_mut().unwrap().entry("schemaVersion").or_insert(json!(4));
        if let Some(fields) = sent.get_mut("fields") {
            for (_, field) in fields.as_object_mut().unwrap() {
                field["at"] = field["updatedAt"].clone();
            }
        }
        assert_eq!(got, sent);
    }
}

#[tokio::test]
async fn what_the_protocol_does_not_name_comes_back_as_it_came_on_every_way() {
    let cluster = shared().await;
    let user = cluster.user();
    let body =
        json!({ "clientId": "phone", "schemaVersion": 4, "changes": changes(), "unknown": { "of": "the body" } });
    cluster.pushed(&user, "todo", body).await;
    check(&cluster.pulled(&user, "todo", "todos", BEGINNING, Some("laptop")).await["serverChanges"]);
    check(&cluster.pushed(&user, "todo", json!({ "clientId": "laptop" })).await["serverChanges"]);
    check(&cluster.pushed(&user, "todo", json!({ "clientId": "phone" })).await["serverChanges"]);
    let path = format!("/sync/todo/stream?collections=todos&since={BEGINNING}");
    let mut events = Events::open(cluster.request(&user, Method::GET, &path)).await;
    check(&events.delta().await.data["changes"]);
}

#[tokio::test]
async fn members_beyond_16_kib_are_refused_and_a_push_of_the_most_comes_back_in_pages() {
    let cluster = shared().await;
    let user = cluster.user();
    let change = |id: usize, length: usize| {
        let mut change = update("todos", &id.to_string(), "title", "Eggs", AT);
        change["note"] = json!("x".repeat(length));
        change
    };
    let room = 16 * 1024 - r#"{"note":""}"#.len();
    let body = json!({ "clientId": "phone", "changes": [change(0, 1), change(1, room + 1)] });
    let message = cluster.push_raw(&user, "todo", body.to_string()).await.refused(400, "bad_request");
    assert!(message.starts_with("changes[1]:"), "{message}");
    assert_eq!(cluster.stored(&user).await, 0);
    let most: Vec<Value> = (0..600).map(|id| change(id, room)).collect();
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": most })).await;
    let pages = cluster.push_all(&user, "todo", "", "laptop").await;
    assert!(pages.len() > 1, "members count where a page is cut");
    assert!(pages.iter().all(|page| page.to_string().len() < 6 << 20));
    assert_eq!(ids_of(&pages).len(), 600);
}

#[tokio::test]
async fn an_insert_without_a_stamp_loses_to_every_edit_and_is_sent_as_an_update_from_the_beginning_of_time() {
    let cluster = shared().await;
    let bare = |title: &str| json!({ "table": "todos", "id": "a", "op": "insert", "data": { "title": title, "n": 1 } });
    let edit = update("todos", "a", "title", "edited", "1999-01-01T00:00:00Z");
    for order in [[bare("bare"), edit.clone()], [edit.clone(), bare("bare")]] {
        let user = cluster.user();
        for (device, change) in ["phone", "laptop"].iter().zip(&order) {
            cluster.pushed(&user, "todo", json!({ "clientId": device, "since": AT, "changes": [change] })).await;
        }
        let page = cluster.pulled(&user, "todo", "todos", BEGINNING, None).await;
        let sent = page["serverChanges"].as_array().unwrap();
        assert!(sent.iter().all(|change| change["op"] == "update"), "{page}");
        let bare = sent.iter().find(|change| change["fields"].get("n").is_some()).unwrap();
        for field in ["title", "n"] {
            assert_eq!(bare["fields"][field]["at"], "1970-01-01T00:00:00.000Z");
            assert_eq!(bare["fields"][field]["updatedAt"], "1970-01-01T00:00:00.000Z");
        }
    }
}
