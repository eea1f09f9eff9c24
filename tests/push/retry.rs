//! A push that is sent again: answered like the first, stored once.

use super::AT;
use super::support::*;
use futures_util::future::join_all;
use serde_json::{Value, json};

/// A push with every kind of change, one of them stamped too far ahead.
fn push(since: &str) -> Value {
    let ahead = iso(now_millis() + 3_600_000);
    let changes = [
        insert("todos", "a", "Milk", AT),
        update("todos", "b", "title", "Eggs", &ahead),
        json!({ "table": "todos", "id": "c", "op": "delete" }),
        json!({ "table": "todos", "id": "d", "op": "insert", "data": { "title": "Tea" } }),
        insert("todos", "e", "Rice", &ahead),
        json!({ "table": "todos", "id": "f", "op": "delete", "deletedAt": ahead }),
    ];
    json!({ "clientId": "phone", "since": since, "changes": changes })
}

async fn other_device(cluster: &Cluster, user: &User, id: &str) -> Value {
    let body = json!({ "clientId": "laptop", "since": AT, "changes": [insert("todos", id, "Salt", AT)] });
    cluster.pushed(user, "todo", body).await
}

#[tokio::test]
async fn a_retried_push_is_answered_like_the_first_on_every_replica_and_stored_once() {
    let cluster = shared().await;
    for since in ["", AT] {
        let user = cluster.user();
        other_device(cluster, &user, "x").await;
        let push = push(since);
        let first = cluster.pushed(&user, "todo", push.clone()).await;
        assert_eq!(ids(&first), ["x"]);
        let adjusted: Vec<_> = first["adjusted"].as_array().unwrap().iter().map(|one| &one["index"]).collect();
        assert_eq!(adjusted, [1, 4, 5]);
        for replica in 0..3 {
            assert_eq!(cluster.pushed_to(replica, &user, "todo", push.clone()).await, first);
        }
        assert_eq!(cluster.stored(&user).await, 7);
    }
}

#[tokio::test]
async fn a_push_that_arrives_ten_times_at_once_on_three_replicas_is_stored_once_and_answered_alike() {
    let cluster = shared().await;
    let user = cluster.user();
    other_device(cluster, &user, "x").await;
    let push = push("");
    let answers = join_all((0..10).map(|at| cluster.pushed_to(at, &user, "todo", push.clone()))).await;
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    assert_eq!(cluster.stored(&user).await, 7);
}

#[tokio::test]
async fn a_push_retried_after_others_came_in_between_also_brings_theirs() {
    let cluster = shared().await;
    let user = cluster.user();
    other_device(cluster, &user, "x").await;
    let push = push("");
    let first = cluster.pushed(&user, "todo", push.clone()).await;
    let last = other_device(cluster, &user, "y").await;
    let own = json!({ "clientId": "phone", "since": until(&first), "changes": [insert("todos", "z", "Milk", AT)] });
    cluster.pushed(&user, "todo", own).await;
    let retried = cluster.pushed_to(1, &user, "todo", push).await;
    assert_eq!(retried["adjusted"], first["adjusted"]);
    // Including what the device has stored since its first attempt: it has lost its database.
    assert_eq!(ids(&retried), ["x", "y", "z"]);
    assert!(until(&retried) > until(&last));
    assert_eq!(cluster.stored(&user).await, 9);
}

#[tokio::test]
async fn a_push_retried_from_the_beginning_brings_back_own_earlier_changes_again() {
    let cluster = shared().await;
    let user = cluster.user();
    let earlier = json!({ "clientId": "phone", "since": AT, "changes": [insert("todos", "own", "Milk", AT)] });
    cluster.pushed(&user, "todo", earlier).await;
    let push = push("");
    let first = cluster.pushed(&user, "todo", push.clone()).await;
    assert_eq!(ids(&first), ["own"]);
    assert_eq!(cluster.pushed(&user, "todo", push).await, first);
}

#[tokio::test]
async fn a_push_sent_again_from_the_beginning_brings_back_what_the_device_stored_since() {
    let cluster = shared().await;
    let user = cluster.user();
    let later = "2024-01-01T10:06:00.000Z";
    let body = |since: &str, changes: Value| json!({ "clientId": "phone", "since": since, "changes": changes });
    let old = json!([insert("todos", "x", "Milk", AT)]);
    let first = cluster.pushed(&user, "todo", body("", old.clone())).await;
    let since = [insert("todos", "y", "Eggs", AT), update("todos", "x", "title", "Bread", later)];
    let second = cluster.pushed(&user, "todo", body(until(&first), json!(since))).await;
    other_device(cluster, &user, "z").await;
    // A profile that was restored to an earlier state: it pushes what was pending then, alone or with more.
    let restored = cluster.pushed_to(1, &user, "todo", body("", old.clone())).await;
    assert_eq!(ids(&restored), ["y", "x", "z"]);
    assert_eq!(restored["serverChanges"][1]["fields"]["title"]["value"], "Bread");
    assert!(until(&restored) > until(&second));
    let more = json!([old[0], insert("todos", "new", "Salt", AT)]);
    assert_eq!(ids(&cluster.pushed_to(2, &user, "todo", body("", more)).await), ["y", "x", "z"]);
    assert_eq!(cluster.stored(&user).await, 5);
    // With a cursor that is not the beginning, nothing of its own comes back.
    assert_eq!(ids(&cluster.pushed(&user, "todo", body(until(&second), old)).await), ["z"]);
}

#[tokio::test]
async fn the_same_changes_of_another_device_user_or_app_are_others_and_with_another_since_the_same() {
    let cluster = shared().await;
    let (user, other) = (cluster.user(), cluster.user());
    let changes = [insert("todos", "a", "Milk", AT)];
    let body = |client: &str, since: &str| json!({ "clientId": client, "since": since, "changes": changes });
    cluster.pushed(&user, "todo", body("phone", AT)).await;
    cluster.pushed(&user, "todo", body("phone", "2024-01-01T10:05:00.000020Z")).await;
    assert_eq!(cluster.stored(&user).await, 1);
    cluster.pushed(&user, "todo", body("laptop", AT)).await;
    assert_eq!(cluster.stored(&user).await, 2);
    cluster.pushed(&user, "notes", body("phone", AT)).await;
    assert_eq!(cluster.stored(&user).await, 3);
    cluster.pushed(&other, "todo", body("phone", AT)).await;
    assert_eq!((cluster.stored(&user).await, cluster.stored(&other).await), (3, 1));
}

#[tokio::test]
async fn other_changes_with_the_same_since_are_stored_too() {
    let cluster = shared().await;
    let user = cluster.user();
    let variants = [
        json!([insert("todos", "a", "Milk", AT)]),
        json!([insert("todos", "a", "Eggs", AT)]),
        json!([update("todos", "a", "title", "Milk", AT)]),
        json!([update("todos", "a", "title", "Milk", "2024-01-01T10:05:00.001Z")]),
        json!([{ "table": "todos", "id": "a", "op": "delete" }]),
        json!([{ "table": "todos", "id": "a", "op": "delete", "deletedAt": AT }]),
        // Concatenated, these two consist of the same words.
        json!([{ "table": "t", "id": "a", "op": "update", "fields": {} }, { "table": "1", "id": AT, "op": "delete" }]),
        json!([update("t", "a", "delete", 1, AT)]),
    ];
    let mut expected = 0;
    for changes in &variants {
        cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": changes })).await;
        expected += changes.as_array().unwrap().len() as i64;
        assert_eq!(cluster.stored(&user).await, expected, "{changes}");
    }
}

#[tokio::test]
async fn a_push_that_was_refused_can_be_mended_and_sent_again() {
    let cluster = shared().await;
    let user = cluster.user();
    let good = insert("todos", "a", "Milk", AT);
    let bad = json!({ "table": "todos", "id": "b", "op": "move" });
    let (status, _) = cluster.push(&user, "todo", json!({ "clientId": "phone", "changes": [good, bad] })).await;
    assert_eq!(status, 400);
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": [good] })).await;
    assert_eq!(cluster.stored(&user).await, 1);
}

/// The record ids and event ids of a user's changes, in log order.
async fn events(cluster: &Cluster, user: &User) -> Vec<(String, String)> {
    let answer = cluster.pushed(user, "todo", json!({ "clientId": "reader", "since": "2020-01-01T00:00:00Z" })).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let changes = answer["serverChanges"].as_array().unwrap().iter();
    changes.map(|change| (text(&change["id"]), text(&change["eventId"]))).collect()
}

#[tokio::test]
async fn pending_changes_sent_again_with_more_or_with_a_moved_cursor_are_stored_once() {
    let cluster = shared().await;
    let user = cluster.user();
    let ahead = iso(now_millis() + 3_600_000);
    let late = update("todos", "late", "title", "Eggs", &ahead);
    let (a, b, c) =
        (insert("todos", "a", "Milk", AT), update("todos", "a", "title", "Tea", AT), insert("todos", "c", "Rice", AT));
    let body = |since: &str, changes: &[&Value]| json!({ "clientId": "phone", "since": since, "changes": changes });
    let first = cluster.pushed(&user, "todo", body("", &[&a, &late])).await;
    other_device(cluster, &user, "x").await;
    // The answer is lost; what is pending now is pushed in another order, twice in one push, with other pushes in
    // between.
    let second = cluster.pushed_to(1, &user, "todo", body("", &[&b, &late, &a, &a])).await;
    assert_eq!(ids(&second), ["x"], "nothing of this push comes back");
    assert_eq!(first["adjusted"][0]["updatedAt"], second["adjusted"][0]["updatedAt"], "as it is stored");
    assert_eq!(second["adjusted"][0]["index"], 1);
    assert_eq!(second["adjusted"].as_array().unwrap().len(), 1);
    let third = cluster.pushed_to(2, &user, "todo", body(until(&second), &[&late, &a, &b, &c])).await;
    assert_eq!(ids(&third), [""; 0]);
    let stored: Vec<String> = events(cluster, &user).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(stored, ["a", "late", "x", "a", "c"]);
    assert_eq!(until(&third), until(&cluster.pushed(&user, "todo", body(until(&third), &[])).await));
}

#[tokio::test]
async fn one_change_in_many_pushes_at_once_is_stored_once() {
    let cluster = shared().await;
    let user = cluster.user();
    let shared = insert("todos", "shared", "Milk", AT);
    let pushes = (0..12).map(|n| {
        let own = insert("todos", &format!("own-{n}"), "Milk", AT);
        cluster.pushed_to(n, &user, "todo", json!({ "clientId": "phone", "since": AT, "changes": [own, shared] }))
    });
    join_all(pushes).await;
    assert_eq!(cluster.stored(&user).await, 13);
}

#[tokio::test]
async fn an_event_id_is_ours_and_the_same_on_every_way() {
    let cluster = shared().await;
    let user = cluster.user();
    let mut change = insert("todos", "a", "Milk", AT);
    change["eventId"] = json!("mine");
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": [change] })).await;
    let pushed = events(cluster, &user).await;
    let pulled = cluster.pulled(&user, "todo", "todos", AT, None).await;
    assert_eq!(pulled["serverChanges"][0]["eventId"], json!(pushed[0].1));
    assert!(uuid::Uuid::parse_str(&pushed[0].1).is_ok());
}

#[tokio::test]
async fn a_delete_without_a_stamp_is_another_one_once_its_record_was_changed_since() {
    let cluster = shared().await;
    let user = cluster.user();
    let delete = json!({ "table": "todos", "id": "a", "op": "delete" });
    let undelete = |at: &str| update("todos", "a", "deletedAt", Value::Null, at);
    let push = |changes: Value| json!({ "clientId": "phone", "since": AT, "changes": changes });
    cluster.pushed(&user, "todo", push(json!([insert("todos", "a", "Milk", AT), delete]))).await;
    cluster.pushed(&user, "todo", push(json!([delete]))).await;
    assert_eq!(cluster.stored(&user).await, 2, "sent again");
    let again = push(json!([undelete("2024-01-01T11:00:00Z"), delete]));
    cluster.pushed(&user, "todo", again.clone()).await;
    assert_eq!(cluster.stored(&user).await, 4, "deleted a second time, in one push with what came before");
    cluster.pushed_to(1, &user, "todo", again).await;
    assert_eq!(cluster.stored(&user).await, 4, "sent again");
    let other = json!({ "clientId": "laptop", "since": AT, "changes": [undelete("2024-01-01T12:00:00Z")] });
    cluster.pushed(&user, "todo", other).await;
    cluster.pushed(&user, "todo", push(json!([delete]))).await;
    assert_eq!(cluster.stored(&user).await, 6, "a third time, after another device");
    cluster.pushed(&user, "todo", push(json!([delete]))).await;
    assert_eq!(cluster.stored(&user).await, 6);
}
