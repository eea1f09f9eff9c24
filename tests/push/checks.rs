//! The checks that precede storing.

use super::AT;
use super::support::*;
use serde_json::{Value, json};

/// Pushes this change between two valid ones; returns the refusal's message.
async fn refusal(change: &str) -> String {
    let cluster = shared().await;
    let user = cluster.user();
    let good = insert("todos", "good", "Milk", AT);
    let body = format!(r#"{{"clientId":"phone","since":"","changes":[{good},{change},{good}]}}"#);
    let message = cluster.push_raw(&user, "todo", body).await.refused(400, "bad_request");
    assert_eq!(cluster.stored(&user).await, 0, "stored in spite of {message}");
    message
}

async fn refused_for(change: Value, because: &str) {
    let message = refusal(&change.to_string()).await;
    assert!(message.contains("changes[1]") && message.contains(because), "{change}: {message}");
}

#[tokio::test]
async fn op_is_insert_update_or_delete() {
    for op in ["upsert", "INSERT", ""] {
        refused_for(json!({ "table": "todos", "id": "a", "op": op, "data": {} }), "op must be insert").await;
    }
    refused_for(json!({ "table": "todos", "id": "a", "op": null, "data": {} }), "op is missing").await;
    refused_for(json!({ "table": "todos", "id": "a", "op": 1, "data": {} }), "expected a string").await;
    refused_for(json!({ "table": "todos", "id": "a", "data": {} }), "op is missing").await;
}

/// Of the wrong type, not of the wrong value.
#[tokio::test]
async fn a_member_of_the_wrong_type_is_named() {
    for (name, value) in [("op", json!(1)), ("table", json!([])), ("id", json!({ "a": 1 })), ("id", json!(7))] {
        let mut change = json!({ "table": "todos", "id": "a", "op": "delete" });
        change[name] = value;
        refused_for(change, &format!("{name}: invalid type")).await;
    }
    let fields = |fields: Value| json!({ "table": "todos", "id": "a", "op": "update", "fields": fields });
    refused_for(fields(json!({ "title": 5 })), "title: invalid type").await;
    for member in ["updatedAt", "at"] {
        let expected = format!("title: {member}: invalid type");
        refused_for(fields(json!({ "title": { "value": 1, member: 5 } })), &expected).await;
    }
    let long = "x".repeat(100_000);
    let message = refusal(&fields(json!({ long: 5 })).to_string()).await;
    assert!(message.len() < 1_000, "a name is not repeated at any length: {}", message.len());
    let (cluster, user) = (shared().await, shared().await.user());
    for member in ["clientId", "since"] {
        let body = json!({ "clientId": "phone", "since": "", "changes": [] });
        let wrong = changed(body, member, json!({}));
        let message = cluster.push_raw(&user, "todo", wrong.to_string()).await.refused(400, "bad_request");
        assert!(message.contains(&format!("{member}: invalid type")), "{message}");
    }
}

fn changed(mut body: Value, member: &str, value: Value) -> Value {
    body[member] = value;
    body
}

#[tokio::test]
async fn table_and_id_are_not_empty() {
    for name in [json!(""), json!(null)] {
        refused_for(json!({ "table": name, "id": "a", "op": "delete" }), "table is missing or empty").await;
        refused_for(json!({ "table": "todos", "id": name, "op": "delete" }), "id is missing or empty").await;
    }
    refused_for(json!({ "id": "a", "op": "delete" }), "table is missing or empty").await;
    refused_for(json!({ "table": "todos", "op": "delete" }), "id is missing or empty").await;
    refused_for(json!({ "table": 7, "id": "a", "op": "delete" }), "string").await;
    refused_for(json!({ "table": "todos", "id": { "a": 1 }, "op": "delete" }), "string").await;
}

#[tokio::test]
async fn an_update_has_fields() {
    refused_for(json!({ "table": "todos", "id": "a", "op": "update" }), "fields").await;
    for fields in [json!(null), json!([]), json!("title"), json!({ "title": "Eggs" }), json!({ "title": null })] {
        refused_for(json!({ "table": "todos", "id": "a", "op": "update", "fields": fields }), "fields").await;
    }
}

#[tokio::test]
async fn each_field_of_an_update_has_a_stamp_that_parses() {
    let field = |field: Value| json!({ "table": "todos", "id": "a", "op": "update", "fields": { "title": field } });
    refused_for(field(json!({ "value": "Eggs" })), "\"title\" has no updatedAt").await;
    refused_for(field(json!({ "value": "Eggs", "updatedAt": null })), "\"title\" has no updatedAt").await;
    refused_for(field(json!({ "value": "Eggs", "updatedAt": 1704103500000_i64 })), "fields").await;
    for stamp in ["", "yesterday", "2024-01-01", "2024-01-01T10:05:00", "2024-01-01T25:05:00Z", "1704103500000"] {
        refused_for(field(json!({ "value": "Eggs", "updatedAt": stamp })), "updatedAt of field \"title\"").await;
    }
}

#[tokio::test]
async fn deleted_at_is_a_stamp_that_parses() {
    for stamp in [json!(""), json!("yesterday"), json!(7), json!({})] {
        let change = json!({ "table": "todos", "id": "a", "op": "delete", "deletedAt": stamp });
        refused_for(change, "deletedAt").await;
    }
}

#[tokio::test]
async fn data_of_an_insert_is_an_object() {
    for data in [json!([1]), json!("Milk"), json!(7), json!(true)] {
        refused_for(json!({ "table": "todos", "id": "a", "op": "insert", "data": data }), "data").await;
    }
}

#[tokio::test]
async fn a_change_is_an_object() {
    let as_list = json!(["todos", "a", "insert", { "title": "Milk" }, null, null]);
    for change in [json!(null), json!(7), json!("insert"), json!([]), as_list] {
        refused_for(change, "changes[1]").await;
    }
    let list_for_field =
        json!({ "table": "todos", "id": "a", "op": "update", "fields": { "title": ["Eggs", AT, null] } });
    refused_for(list_for_field, "fields").await;
}

#[tokio::test]
async fn what_the_database_cannot_hold_is_refused() {
    let update = |field: &str| format!(r#"{{"table":"todos","id":"a","op":"update","fields":{{{field}}}}}"#);
    let insert = |data: &str| format!(r#"{{"table":"todos","id":"a","op":"insert","data":{data}}}"#);
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let mut changes = Vec::new();
    for bad in [r"\u0000", r"\ud800", r"\udc00", r"\udc00\ud800", r"\ud83dx", r"a\u0000b"] {
        changes.push(update(&format!(r#""title":{{"value":"{bad}","updatedAt":"{AT}"}}"#)));
        changes.push(update(&format!(r#""title":{{"value":[{{"{bad}":1}}],"updatedAt":"{AT}"}}"#)));
        changes.push(update(&format!(r#""{bad}":{{"value":1,"updatedAt":"{AT}"}}"#)));
        changes.push(insert(&format!(r#"{{"title":"{bad}"}}"#)));
        changes.push(insert(&format!(r#"{{"{bad}":1}}"#)));
        changes.push(format!(r#"{{"table":"{bad}","id":"a","op":"delete"}}"#));
        changes.push(format!(r#"{{"table":"todos","id":"{bad}","op":"delete"}}"#));
    }
    for depth in [513, 10_000, 200_000] {
        changes.push(update(&format!(r#""title":{{"value":{},"updatedAt":"{AT}"}}"#, nested(depth))));
        changes.push(insert(&format!(r#"{{"title":{}}}"#, nested(depth))));
    }
    for number in ["1e999999", "-1E+401", "1e-99999", "0.1e309000"] {
        changes.push(update(&format!(r#""title":{{"value":[{number}],"updatedAt":"{AT}"}}"#)));
        changes.push(insert(&format!(r#"{{"title":{number}}}"#)));
    }
    for change in changes {
        let message = refusal(&change).await;
        assert!(message.contains("changes[1]"), "{}: {message}", &change[..change.len().min(200)]);
    }
}

#[tokio::test]
async fn a_number_longer_than_the_database_can_hold_is_refused_and_stores_nothing() {
    let cluster = shared().await;
    let user = cluster.user();
    let good = insert("todos", "good", "Milk", AT);
    for number in ["9".repeat(200_000), format!("-0.{}", "1".repeat(17_000)), format!("1{}e-3", "0".repeat(1_001))] {
        for member in [format!(r#""data":{{"n":[{number}]}}"#), format!(r#""data":{{}},"note":{number}"#)] {
            let change = format!(r#"{{"table":"todos","id":"a","op":"insert",{member}}}"#);
            let body = format!(r#"{{"clientId":"phone","changes":[{good},{change}]}}"#);
            let message = cluster.push_raw(&user, "todo", body).await.refused(400, "bad_request");
            assert!(message.starts_with("changes[1]:"), "{message}");
        }
    }
    assert_eq!(cluster.stored(&user).await, 0);
}

#[tokio::test]
async fn numbers_that_javascript_can_hold_come_back_as_the_same_numbers() {
    let cluster = shared().await;
    let user = cluster.user();
    let numbers = [0.0, -1.0, 1.5, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, 9007199254740993.0, 1e21, 1e-7];
    let spelled = format!("{numbers:?}");
    assert!(spelled.contains("e308") && spelled.contains("5e-324"), "{spelled}");
    let body = format!(
        r#"{{"clientId":"phone","changes":[{{"table":"todos","id":"a","op":"insert","data":{{"n":{spelled},"updatedAt":"{AT}"}}}}]}}"#
    );
    cluster.push_raw(&user, "todo", body).await;
    let delta = cluster.push_raw(&user, "todo", r#"{"clientId":"laptop"}"#).await.text;
    let back = delta.split_once("\"n\": [").unwrap().1.split_once(']').unwrap().0;
    let back: Vec<f64> = back.split(',').map(|number| number.trim().parse().unwrap()).collect();
    assert_eq!(back, numbers);
}

#[tokio::test]
async fn names_that_no_index_can_hold_are_refused() {
    let cluster = shared().await;
    let user = cluster.user();
    for (table, id, because) in [
        ("t".repeat(256), "a".to_owned(), "table is longer"),
        ("t".repeat(1_000_000), "a".to_owned(), "table is longer"),
        ("todos".to_owned(), "a".repeat(1025), "id is longer"),
        ("todos".to_owned(), "🍎".repeat(300_000), "id is longer"),
    ] {
        refused_for(json!({ "table": table, "id": id, "op": "delete" }), because).await;
    }
    let client = json!({ "clientId": "c".repeat(256), "changes": [insert("todos", "a", "Milk", AT)] });
    cluster.push_raw(&user, "todo", client.to_string()).await.refused(400, "bad_request");
    let app = "a".repeat(256);
    cluster.push_raw(&user, &app, json!({ "clientId": "c" }).to_string()).await.refused(400, "bad_request");
    // Names of the maximum lengths, of text that does not compress.
    let noise = |length| -> String { (0..length).map(|at: usize| char::from(b'!' + (at * at % 89) as u8)).collect() };
    let longest = insert(&noise(255), &noise(1024), "Milk", AT);
    cluster.pushed(&user, "todo", json!({ "clientId": noise(255), "changes": [longest] })).await;
    let delta = cluster.pushed(&user, "todo", json!({ "clientId": "laptop" })).await;
    assert_eq!(changes(&delta), json!([longest]));
}

#[tokio::test]
async fn more_changes_than_are_allowed_in_one_push_are_refused() {
    let cluster = Cluster::start_with(1, &[("MAX_PUSH_CHANGES", "100")]).await;
    let user = cluster.user();
    let push = |count: usize| {
        let changes = vec![json!({ "table": "t", "id": "a", "op": "delete" }); count];
        cluster.push_raw(&user, "todo", json!({ "clientId": "phone", "changes": changes }).to_string())
    };
    let message = push(101).await.refused(400, "bad_request");
    assert!(message.contains("101") && message.contains("100"), "{message}");
    assert_eq!(cluster.stored(&user).await, 0);
    assert_eq!(push(100).await.status, 200);
    assert_eq!(cluster.stored(&user).await, 100);
}

#[tokio::test]
async fn one_bad_change_among_many_stores_nothing_and_is_named_by_its_index() {
    let cluster = shared().await;
    let user = cluster.user();
    let mut changes: Vec<Value> = (0..500).map(|id| insert("todos", &id.to_string(), "Milk", AT)).collect();
    changes[321] = json!({ "table": "todos", "id": "a", "op": "move" });
    let body = json!({ "clientId": "phone", "changes": changes }).to_string();
    let message = cluster.push_raw(&user, "todo", body).await.refused(400, "bad_request");
    assert!(message.contains("changes[321]") && message.contains("move"), "{message}");
    assert_eq!(cluster.stored(&user).await, 0);
}

#[tokio::test]
async fn data_that_is_a_list_is_refused_whatever_its_length() {
    let cluster = shared().await;
    let user = cluster.user();
    for data in ["[]", "[1]", "[1,2]", r#"["2024-01-01T10:00:00.000Z",null]"#, "[1,2,3]", "7", "\"x\"", "true"] {
        let body =
            format!(r#"{{"clientId":"phone","changes":[{{"table":"todos","id":"a","op":"insert","data":{data}}}]}}"#);
        let message = cluster.push_raw(&user, "todo", body).await.refused(400, "bad_request");
        assert!(message.starts_with("changes[0]: data must be an object"), "{data}: {message}");
    }
    assert_eq!(cluster.stored(&user).await, 0);
}

#[tokio::test]
async fn numbers_that_would_be_read_back_many_times_as_long_are_refused() {
    let cluster = shared().await;
    let user = cluster.user();
    let body = |number: &str, count: usize| {
        let list = vec![number; count].join(",");
        format!(
            r#"{{"clientId":"phone","changes":[{{"table":"todos","id":"a","op":"update","fields":{{"list":{{"value":[{list}],"updatedAt":"{AT}"}}}}}}]}}"#
        )
    };
    let message = cluster.push_raw(&user, "todo", body("1e400", 10_000)).await.refused(400, "bad_request");
    assert!(message.starts_with("changes[0]: field \"list\" has so many numbers"), "{message}");
    assert_eq!(cluster.push_raw(&user, "todo", body("1.5e-7", 10_000)).await.status, 200);
}
