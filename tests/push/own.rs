//! What a device gets back of its own, and cursors that prove that the database went back.

use super::AT;
use super::support::*;
use serde_json::{Value, json};

const LATER: &str = "2024-01-01T11:00:00.000Z";
const LATEST: &str = "2024-01-01T12:00:00.000Z";

async fn push(cluster: &Cluster, user: &User, client: &str, since: &str, changes: Value) -> Value {
    cluster.pushed(user, "todo", json!({ "clientId": client, "since": since, "changes": changes })).await
}

/// The names of the fields of each change of an answer.
fn fields(answer: &Value) -> Vec<Vec<String>> {
    let of = |change: &Value| {
        let fields = change.get("fields").or(change.get("data")).and_then(Value::as_object);
        fields.map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
    };
    answer["serverChanges"].as_array().unwrap().iter().map(of).collect()
}

#[tokio::test]
async fn a_device_that_edited_on_after_a_lost_answer_gets_nothing_that_undoes_it() {
    let cluster = shared().await;
    let user = cluster.user();
    let inserted = json!({ "table": "todos", "id": "a", "op": "insert", "data": { "title": "first", "note": "n", "updatedAt": AT } });
    push(cluster, &user, "phone", "", json!([inserted])).await;
    let edit = update("todos", "a", "title", "second", LATER);
    // Sent again with what came since, without it, and as one insert of all.
    let merged = json!({ "table": "todos", "id": "a", "op": "insert", "data": { "title": "second", "note": "n", "updatedAt": LATER } });
    let answer = push(cluster, &user, "phone", "", json!([inserted, edit])).await;
    assert_eq!(fields(&answer), [[""; 0]; 0]);
    let answer = push(cluster, &user, "phone", "", json!([edit])).await;
    assert_eq!(fields(&answer), [["note", "updatedAt"]]);
    let answer = push(cluster, &user, "phone", "", json!([merged])).await;
    assert_eq!(fields(&answer), [[""; 0]; 0]);
}

#[tokio::test]
async fn a_device_that_lost_its_database_gets_all_that_it_wrote_and_nothing_older() {
    let cluster = shared().await;
    let user = cluster.user();
    push(cluster, &user, "phone", "", json!([insert("todos", "a", "first", AT), insert("todos", "b", "kept", AT)]))
        .await;
    push(cluster, &user, "phone", "", json!([update("todos", "a", "title", "second", LATER)])).await;
    push(cluster, &user, "phone", "", json!([update("todos", "a", "title", "third", LATEST)])).await;
    push(cluster, &user, "phone", "", json!([update("todos", "a", "title", "too late", LATER)])).await;
    for since in ["", BEGINNING] {
        let answer = push(cluster, &user, "phone", since, json!([])).await;
        let sent: Vec<String> = answer["serverChanges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|change| {
                let value = change["fields"].get("title").map_or(&change["data"]["title"], |field| &field["value"]);
                format!("{} {}", change["id"], value)
            })
            .collect();
        // What came too late replaces nothing; clients that look at stamps pass over it.
        assert_eq!(sent, [r#""a" null"#, r#""b" "kept""#, r#""a" "third""#, r#""a" "too late""#]);
    }
}

#[tokio::test]
async fn others_values_that_the_device_has_replaced_are_not_sent_to_it() {
    let cluster = shared().await;
    let user = cluster.user();
    let first = push(cluster, &user, "laptop", "", json!([insert("todos", "x", "x", AT)])).await;
    push(cluster, &user, "laptop", "", json!([update("todos", "a", "title", "theirs", AT)])).await;
    let answer =
        push(cluster, &user, "phone", until(&first), json!([update("todos", "a", "title", "mine", LATER)])).await;
    assert_eq!(ids(&answer), [""; 0]);
    assert_eq!(ids(&push(cluster, &user, "tablet", until(&first), json!([])).await), ["a", "a"]);
}

#[tokio::test]
async fn a_cursor_of_ours_past_the_newest_change_is_served_from_the_beginning() {
    let cluster = shared().await;
    let user = cluster.user();
    push(cluster, &user, "laptop", "", json!([insert("todos", "a", "kept", AT)])).await;
    push(cluster, &user, "phone", "", json!([insert("todos", "own", "kept", AT)])).await;
    let lost = push(cluster, &user, "laptop", "", json!([insert("todos", "b", "lost", AT)])).await;
    let cursor = until(&lost).to_owned();
    // As if restored from a backup: the last push is gone.
    for statement in [
        "delete from sync_changes where user_id = $1 and record_id = 'b'",
        "update sync_heads set head = (select max(created_at) from sync_changes where user_id = $1), previous = 'epoch' where user_id = $1",
    ] {
        sqlx::query(statement).bind(&user.id).execute(&cluster.pool).await.unwrap();
    }
    let pulled = cluster.pulled(&user, "todo", "todos", &cursor, Some("phone")).await;
    assert_eq!(ids(&pulled), ["a", "own"], "its own changes may be lost there too");
    assert!(until(&pulled) < cursor.as_str());
    assert_eq!(ids(&push(cluster, &user, "tablet", &cursor, json!([])).await), ["a", "own"]);
    let answer = push(cluster, &user, "phone", &cursor, json!([insert("todos", "c", "new", AT)])).await;
    assert_eq!(ids(&answer), ["a", "own"], "what is stored now does not hide it");
    // Other servers' cursors mean what they say, at six digits too: they never end in a zero.
    for foreign in ["2099-01-01T00:00:00.000Z", "2099-01-01T00:00:00.123456789Z", "2099-01-01T00:00:00.123457Z"] {
        let answer = push(cluster, &user, "phone", foreign, json!([insert("todos", foreign, "new", AT)])).await;
        assert_eq!(ids(&answer), [""; 0], "{foreign}");
        assert_eq!(ids(&cluster.pulled(&user, "todo", "todos", foreign, None).await), [""; 0], "{foreign}");
    }
}

#[tokio::test]
async fn a_day_that_does_not_exist_is_no_stamp_of_an_own_insert() {
    let cluster = shared().await;
    // Such a day, and one that does, on which the insert is the newer.
    for (day, sent) in [
        ("2024-02-31", &["note", "updatedAt"][..]),
        ("2023-02-29", &["note", "updatedAt"]),
        ("2100-02-29", &["note", "updatedAt"]),
        ("2024-04-31", &["note", "updatedAt"]),
        ("2024-02-29", &["note", "title", "updatedAt"]),
        ("2000-02-29", &["note", "updatedAt"]),
    ] {
        let user = cluster.user();
        let data = json!({ "title": "first", "note": "n", "updatedAt": format!("{day}T00:00:00.000Z") });
        let inserted = json!({ "table": "todos", "id": "a", "op": "insert", "data": data });
        push(cluster, &user, "phone", AT, json!([inserted])).await;
        let edited = update("todos", "a", "title", "second", "2024-02-20T10:00:00.000Z");
        push(cluster, &user, "phone", AT, json!([edited])).await;
        let answer = push(cluster, &user, "phone", "", json!([])).await;
        let mut found = fields(&answer)[0].clone();
        found.sort();
        assert_eq!(found, sent, "{day}");
    }
}
