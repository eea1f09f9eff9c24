//! `POST /sync/{appId}`, sentence by sentence of PROTOCOL.md.

mod support;

use reqwest::StatusCode;
use serde_json::json;
use support::*;

const AT: &str = "2024-01-01T10:05:00.000Z";

#[tokio::test]
async fn a_push_is_answered_with_what_other_devices_changed_oldest_first() {
    let cluster = shared().await;
    let user = cluster.user();
    let changes = [insert("todos", "a", "Milk", AT), update("lists", "b", "name", "Shop", AT)];
    let (status, first) = cluster.push(&user, "todo", json!({ "clientId": "phone", "changes": changes })).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(first["serverChanges"], json!([]));
    assert_eq!(first["conflicts"], json!([]));
    assert_eq!(first["hasMore"], json!(false));

    let (_, delta) =
        cluster.push_to(1, &user, "todo", json!({ "clientId": "laptop", "since": "", "changes": [] })).await;
    assert_eq!(delta["serverChanges"], json!(changes));
    assert_eq!(delta["syncedUntil"], first["syncedUntil"]);
}
