//! Equal stamps: the change stored later wins, and no device is sent a value that lost to its own.

use super::AT;
use super::support::*;
use serde_json::{Value, json};

/// The same instant, spelled differently.
const SAME: &str = "2024-01-01T12:05:00.000+02:00";

fn delete(id: &str, at: &str) -> Value {
    json!({ "table": "todos", "id": id, "op": "delete", "deletedAt": at })
}

/// Pushes without reading anything: `since` is past everything.
async fn store(cluster: &Cluster, user: &User, client: &str, change: &Value) {
    let body = json!({ "clientId": client, "since": "2030-01-01T00:00:00.000Z", "changes": [change] });
    cluster.pushed(user, "todo", body).await;
}

async fn delta(cluster: &Cluster, user: &User, client: &str) -> Value {
    // Not from the beginning: that would bring back the device's own changes.
    changes(&cluster.pulled(user, "todo", "todos", "1970-01-01T00:00:01Z", Some(client)).await)
}

#[tokio::test]
async fn a_device_is_not_sent_the_value_that_lost_to_its_own_and_third_devices_get_both_in_order() {
    let cluster = shared().await;
    for at in [AT, SAME] {
        for (first, second) in [
            (update("todos", "r", "title", "first", at), update("todos", "r", "title", "second", AT)),
            (insert("todos", "r", "first", AT), insert("todos", "r", "second", AT)),
            (delete("r", at), delete("r", AT)),
        ] {
            let user = cluster.user();
            store(cluster, &user, "phone", &first).await;
            store(cluster, &user, "laptop", &second).await;
            let mut canonical = first.clone();
            if canonical["op"] == "update" {
                canonical["fields"]["title"]["updatedAt"] = json!(AT);
            } else if canonical["op"] == "delete" {
                canonical["deletedAt"] = json!(AT);
            }
            assert_eq!(delta(cluster, &user, "laptop").await, json!([]), "{first} lost to {second}");
            assert_eq!(delta(cluster, &user, "tablet").await, json!([canonical, second]));
            let winner = delta(cluster, &user, "phone").await;
            let as_sent = &winner[0];
            assert_eq!(winner.as_array().unwrap().len(), 1, "{winner}");
            assert_eq!(as_sent["id"], "r");
        }
    }
}

#[tokio::test]
async fn the_answer_of_the_push_that_wins_a_tie_does_not_bring_the_loser() {
    let cluster = shared().await;
    let user = cluster.user();
    store(cluster, &user, "phone", &update("todos", "r", "title", "first", AT)).await;
    let change = update("todos", "r", "title", "second", AT);
    let body = json!({ "clientId": "laptop", "since": "1970-01-01T00:00:01Z", "changes": [change] });
    assert_eq!(cluster.pushed(&user, "todo", body.clone()).await["serverChanges"], json!([]));
    // Nor when it is retried, nor from the beginning, where its own change that lost is left out as well.
    assert_eq!(cluster.pushed_to(1, &user, "todo", body).await["serverChanges"], json!([]));
    let body = json!({ "clientId": "laptop", "since": "", "changes": [update("todos", "r", "title", "third", AT)] });
    assert_eq!(cluster.pushed(&user, "todo", body).await["serverChanges"], json!([]));
}

#[tokio::test]
async fn only_the_field_that_lost_is_left_out() {
    let cluster = shared().await;
    let two_fields = json!({ "table": "todos", "id": "r", "op": "update", "fields": {
        "title": { "value": "first", "updatedAt": AT }, "done": { "value": true, "updatedAt": AT } } });
    for (first, rest) in [
        (two_fields, json!({ "done": { "value": true, "updatedAt": AT } })),
        (
            insert("todos", "r", "first", AT),
            json!({ "createdAt": { "value": AT, "updatedAt": AT }, "updatedAt": { "value": AT, "updatedAt": AT } }),
        ),
    ] {
        let user = cluster.user();
        store(cluster, &user, "phone", &first).await;
        store(cluster, &user, "laptop", &update("todos", "r", "title", "second", AT)).await;
        let rest = json!([{ "table": "todos", "id": "r", "op": "update", "fields": rest }]);
        assert_eq!(delta(cluster, &user, "laptop").await, rest);
    }
}

#[tokio::test]
async fn a_later_stamp_wins_and_is_sent_whatever_the_order_of_storing() {
    let cluster = shared().await;
    let later = "2024-01-01T10:05:00.001Z";
    let user = cluster.user();
    store(cluster, &user, "phone", &update("todos", "r", "title", "wins", later)).await;
    store(cluster, &user, "laptop", &update("todos", "r", "title", "loses", AT)).await;
    assert_eq!(delta(cluster, &user, "laptop").await, json!([update("todos", "r", "title", "wins", later)]));
}

#[tokio::test]
async fn a_tie_is_between_one_field_of_one_record_of_one_table_of_one_app() {
    let cluster = shared().await;
    let user = cluster.user();
    let change = update("todos", "r", "title", "first", AT);
    store(cluster, &user, "phone", &change).await;
    for other in [
        update("todos", "r", "done", "second", AT),
        update("todos", "s", "title", "second", AT),
        update("lists", "r", "title", "second", AT),
    ] {
        store(cluster, &user, "laptop", &other).await;
    }
    let elsewhere = json!({ "clientId": "laptop", "since": "", "changes": [update("todos", "r", "title", "x", AT)] });
    cluster.pushed(&user, "notes", elsewhere).await;
    assert_eq!(delta(cluster, &user, "laptop").await, json!([change]));
}
