//! The own changes that a device gets back, and cursors that prove that the database went back.

use super::AT;
use super::support::*;
use serde_json::{Map, Value, json};
use sqlx::Row;

const LATER: &str = "2024-01-01T11:00:00.000Z";
const LATEST: &str = "2024-01-01T12:00:00.000Z";

async fn push(cluster: &Cluster, user: &User, client: &str, since: &str, changes: Value) -> Value {
    cluster.pushed(user, "todo", json!({ "clientId": client, "since": since, "changes": changes })).await
}

/// The field names of each change in an answer.
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
    // The insert sent again with a later edit, the edit alone, and both merged into one insert.
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
        // A value that came too late replaces nothing; clients that compare stamps ignore it.
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
    // Other servers' cursors are taken literally, even with six digits: they never end in a zero.
    for foreign in ["2099-01-01T00:00:00.000Z", "2099-01-01T00:00:00.123456789Z", "2099-01-01T00:00:00.123457Z"] {
        let answer = push(cluster, &user, "phone", foreign, json!([insert("todos", foreign, "new", AT)])).await;
        assert_eq!(ids(&answer), [""; 0], "{foreign}");
        assert_eq!(ids(&cluster.pulled(&user, "todo", "todos", foreign, None).await), [""; 0], "{foreign}");
    }
}

/// An update of this many fields, whose names start with `names`.
fn many_fields(id: &str, names: &str, count: usize, value: usize, at: &str) -> Value {
    let field = |n| (format!("{names}{n}"), json!({ "value": value, "updatedAt": at }));
    let fields: Map<String, Value> = (0..count).map(field).collect();
    json!({ "table": "todos", "id": id, "op": "update", "fields": fields })
}

#[tokio::test]
async fn of_what_a_device_wrote_only_the_fields_of_the_page_are_read() {
    let cluster = shared().await;
    let user = cluster.user();
    let first = push(cluster, &user, "laptop", "", json!([insert("todos", "x", "x", AT)])).await;
    let theirs = many_fields("a", "f", 3, 0, AT);
    push(cluster, &user, "laptop", until(&first), json!([theirs])).await;
    // One of those fields, and very many others.
    let changes: Vec<Value> = (0..20).map(|n| many_fields("a", &format!("other{n}-"), 1_000, n, AT)).collect();
    push(cluster, &user, "phone", AT, json!(changes)).await;
    push(cluster, &user, "phone", AT, json!([many_fields("a", "f", 1, 7, LATER)])).await;
    let pulled = cluster.pulled(&user, "todo", "todos", until(&first), Some("phone")).await;
    assert_eq!(fields(&pulled), [["f1", "f2"]], "it has written f0 later");

    let (_, statement) =
        *mana_sync::store::statements().iter().find(|(name, _)| *name == "own writes").expect("that is its name");
    let names = json!({ "f0": 0, "f1": 0, "f2": 0 });
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement.text))
        .bind(
            sqlx::query_scalar::<_, sqlx::types::Uuid>("select log_id from sync_heads where user_id = $1")
                .bind(&user.id)
                .fetch_one(&cluster.pool)
                .await
                .unwrap(),
        )
        .bind("phone")
        .bind(vec!["todos"])
        .bind(vec!["a"])
        .bind(chrono::DateTime::UNIX_EPOCH)
        .bind(vec![names])
        .fetch_all(&cluster.pool)
        .await
        .unwrap();
    let mut found: Vec<Option<String>> = rows.iter().map(|row| row.get(2)).collect();
    found.sort();
    assert_eq!(found, [None, Some("f0".to_owned())], "of the others it is said that there are some");
}

#[tokio::test]
async fn a_delete_that_others_made_reaches_a_device_which_wrote_other_fields_since() {
    let cluster = shared().await;
    let user = cluster.user();
    push(cluster, &user, "phone", "", json!([insert("todos", "a", "mine", AT)])).await;
    push(cluster, &user, "laptop", "", json!([{ "table": "todos", "id": "a", "op": "delete", "deletedAt": LATER }]))
        .await;
    push(cluster, &user, "phone", AT, json!([many_fields("a", "f", 2, 1, LATEST)])).await;
    // It has lost its database, and its own insert may have been left out: with a bare delete, it would have no record
    // to delete.
    let pulled = cluster.pulled(&user, "todo", "todos", BEGINNING, Some("phone")).await;
    assert_eq!(pulled["serverChanges"][1]["op"], "update");
    assert_eq!(pulled["serverChanges"][1]["fields"]["deletedAt"]["value"], json!(LATER));
}

#[tokio::test]
async fn a_value_that_wins_against_a_stamp_of_the_future_is_sent_with_it_whatever_else_was_written() {
    let cluster = shared().await;
    let user = cluster.user();
    let future = "2099-01-01T00:00:00.000Z";
    let answer = push(cluster, &user, "phone", AT, json!([many_fields("a", "f", 2, 0, future)])).await;
    let stored = answer["adjusted"][0]["updatedAt"].as_str().unwrap().to_owned();
    push(cluster, &user, "phone", AT, json!([many_fields("a", "other", 1_000, 0, LATER)])).await;
    let after = push(cluster, &user, "phone", AT, json!([insert("todos", "x", "x", AT)])).await;
    // One value that loses to the stored one, and one that ties with it and was stored later.
    push(
        cluster,
        &user,
        "laptop",
        AT,
        json!([many_fields("a", "f", 1, 1, LATER), { "table": "todos", "id": "a",
        "op": "update", "fields": { "f1": { "value": 2, "updatedAt": stored } } }]),
    )
    .await;
    let pulled = cluster.pulled(&user, "todo", "todos", until(&after), Some("phone")).await;
    let sent = &pulled["serverChanges"];
    assert_eq!(sent[0]["fields"]["f0"]["at"], json!(LATER), "it loses by its stamp");
    assert_eq!(sent[1]["fields"]["f1"]["at"], json!(future), "it wins, and the device would refuse it otherwise");
}

#[tokio::test]
async fn a_day_that_does_not_exist_is_no_stamp_of_an_own_insert() {
    let cluster = shared().await;
    // Days that do not exist, one that does and is newer, and one that does and is older.
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
