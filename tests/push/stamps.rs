//! Field stamps: how they are sent, and how far ahead they may be.

use super::AT;
use super::support::*;
use serde_json::{Value, json};

const SKEW: i64 = 300_000;

async fn as_others_see_it(cluster: &Cluster, user: &User) -> Vec<Value> {
    let delta = cluster.pushed_to(1, user, "todo", json!({ "clientId": "laptop" })).await;
    changes(&delta).as_array().unwrap().clone()
}

fn millis(stamp: &Value) -> i64 {
    let text = stamp.as_str().unwrap();
    let time = chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis();
    assert_eq!(iso(time), text, "not as toISOString writes it");
    time
}

#[tokio::test]
async fn stamps_are_sent_as_to_iso_string_writes_them_however_they_were_spelled() {
    let cluster = shared().await;
    let user = cluster.user();
    let spellings = [
        ("2024-01-01T10:05:00Z", AT),
        ("2024-01-01T10:05:00.000+00:00", AT),
        ("2024-01-01t12:05:00+02:00", AT),
        ("2024-01-01T10:05:00.000999999Z", AT),
        ("2024-01-01T10:05:00.1Z", "2024-01-01T10:05:00.100Z"),
        ("2024-01-01T10:05:00.123456Z", "2024-01-01T10:05:00.123Z"),
        ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
    ];
    for (id, (spelled, _)) in spellings.iter().enumerate() {
        let id = id.to_string();
        let changes = json!([
            update("update", &id, "title", "Eggs", spelled),
            { "table": "delete", "id": id, "op": "delete", "deletedAt": spelled },
            { "table": "updated", "id": id, "op": "insert", "data": { "updatedAt": spelled } },
            { "table": "created", "id": id, "op": "insert", "data": { "createdAt": spelled } },
        ]);
        cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": changes })).await;
    }
    for change in as_others_see_it(cluster, &user).await {
        let (spelled, written) = spellings[change["id"].as_str().unwrap().parse::<usize>().unwrap()];
        let sent = match change["table"].as_str().unwrap() {
            "update" => &change["fields"]["title"]["updatedAt"],
            "delete" => &change["deletedAt"],
            "updated" => &change["data"]["updatedAt"],
            _ => &change["data"]["createdAt"],
        };
        assert_eq!(sent, written, "{spelled} in {change}");
    }
}

#[tokio::test]
async fn a_stamp_too_far_ahead_is_stored_as_the_servers_time_plus_the_skew_and_listed() {
    let cluster = shared().await;
    let user = cluster.user();
    let before = now_millis();
    let ahead = iso(before + 3_600_000);
    let changes = json!([
        update("todos", "a", "title", "Eggs", AT),
        { "table": "todos", "id": "b", "op": "update", "fields": {
            "late": { "value": 1, "updatedAt": ahead }, "fine": { "value": 2, "updatedAt": AT } } },
        insert("todos", "c", "Milk", &ahead),
        { "table": "todos", "id": "d", "op": "insert", "data": { "createdAt": "9999-12-31T23:59:59.999-01:00" } },
        { "table": "todos", "id": "e", "op": "delete", "deletedAt": ahead },
    ]);
    let answer = cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": changes })).await;
    let after = now_millis();

    let adjusted = answer["adjusted"].as_array().unwrap();
    let listed: Vec<_> =
        adjusted.iter().map(|one| json!([one["index"], one["table"], one["id"], one["fields"]])).collect();
    let expected = [
        json!([1, "todos", "b", ["late"]]),
        json!([2, "todos", "c", ["updatedAt"]]),
        json!([3, "todos", "d", ["createdAt"]]),
        json!([4, "todos", "e", ["deletedAt"]]),
    ];
    assert_eq!(listed, expected);
    let seen = as_others_see_it(cluster, &user).await;
    let sent = [
        &seen[1]["fields"]["late"]["updatedAt"],
        &seen[2]["data"]["updatedAt"],
        &seen[3]["data"]["createdAt"],
        &seen[4]["deletedAt"],
    ];
    for (one, sent) in adjusted.iter().zip(sent) {
        assert_eq!(&one["updatedAt"], sent);
        let stored = millis(sent);
        assert!((before + SKEW..=after + SKEW).contains(&stored), "{sent}");
    }
    assert_eq!(seen[0]["fields"]["title"]["updatedAt"], AT);
    assert_eq!(seen[1]["fields"]["fine"]["updatedAt"], AT);
}

#[tokio::test]
async fn what_a_device_claims_for_an_insert_is_kept_for_each_of_its_members() {
    let cluster = shared().await;
    let user = cluster.user();
    let ahead = iso(now_millis() + 3_600_000);
    let data =
        r#"{"title":"Milk","a \" b":[1],"":{"title":2},"title":"Eggs","updatedAt":"AHEAD"}"#.replace("AHEAD", &ahead);
    let body = format!(
        r#"{{"clientId":"phone","since":"{}","changes":[{{"table":"todos","id":"a","op":"insert","data":{data}}}]}}"#,
        live::NO_DELTA
    );
    for _ in 0..2 {
        let reply = cluster.push_raw(&user, "todo", body.clone()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let adjusted = &serde_json::from_str::<Value>(&reply.text).unwrap()["adjusted"];
        assert_eq!(adjusted[0]["fields"], json!(["updatedAt"]), "{adjusted}");
    }
    let held = sqlx::query_scalar::<_, Value>("select held from sync_changes where user_id = $1").bind(&user.id);
    let expected = json!({ "title": ahead, "a \" b": ahead, "": ahead, "updatedAt": ahead });
    assert_eq!(held.fetch_all(&cluster.pool).await.unwrap(), [expected]);
}

#[tokio::test]
async fn a_stamp_within_the_skew_is_left_alone_and_not_listed() {
    let cluster = shared().await;
    let user = cluster.user();
    let ahead = iso(now_millis() + SKEW - 30_000);
    let changes = [insert("todos", "a", "Milk", &ahead), update("todos", "b", "title", "Eggs", &ahead)];
    let answer = cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": changes })).await;
    assert!(answer["adjusted"].as_array().is_none_or(Vec::is_empty), "{answer}");
    assert_eq!(as_others_see_it(cluster, &user).await, changes);
}

#[tokio::test]
async fn the_allowed_skew_is_a_setting() {
    let cluster = Cluster::start_with(1, &[("MAX_CLOCK_SKEW_MS", "60000")]).await;
    let user = cluster.user();
    let change = update("todos", "a", "title", "Eggs", &iso(now_millis() + 120_000));
    let answer = cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": [change] })).await;
    assert!(millis(&answer["adjusted"][0]["updatedAt"]) <= now_millis() + 60_000, "{answer}");
}

#[tokio::test]
async fn an_insert_without_stamps_counts_as_written_at_the_beginning_of_time() {
    let cluster = shared().await;
    let user = cluster.user();
    let changes = json!([
        { "table": "todos", "id": "a", "op": "insert", "data": { "title": "Milk" } },
        { "table": "todos", "id": "b", "op": "insert", "data": {} },
        { "table": "todos", "id": "c", "op": "insert", "data": { "updatedAt": null, "createdAt": "yesterday", "n": [null] } },
    ]);
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": changes })).await;
    for (sent, inserted) in as_others_see_it(cluster, &user).await.iter().zip(changes.as_array().unwrap()) {
        let fields = inserted["data"].as_object().unwrap().iter();
        let at_first = |value: &Value| json!({ "value": value, "updatedAt": "1970-01-01T00:00:00.000Z" });
        let fields: serde_json::Map<String, Value> =
            fields.map(|(name, value)| (name.clone(), at_first(value))).collect();
        assert_eq!(sent, &json!({ "table": "todos", "id": inserted["id"], "op": "update", "fields": fields }));
    }
}

#[tokio::test]
async fn an_insert_without_data_is_an_empty_record() {
    let cluster = shared().await;
    let user = cluster.user();
    let bare = json!({ "table": "todos", "id": "a", "op": "insert" });
    let nothing = json!({ "table": "todos", "id": "b", "op": "insert", "data": null });
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": [bare, nothing] })).await;
    for change in as_others_see_it(cluster, &user).await {
        assert_eq!((&change["op"], &change["fields"]), (&json!("update"), &json!({})));
    }
}

#[tokio::test]
async fn a_delete_without_deleted_at_gets_the_time_of_storing() {
    let cluster = shared().await;
    let user = cluster.user();
    let before = now_millis();
    let changes = json!([
        { "table": "todos", "id": "a", "op": "delete" },
        { "table": "todos", "id": "b", "op": "delete", "deletedAt": null },
    ]);
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": changes })).await;
    for change in as_others_see_it(cluster, &user).await {
        let deleted = millis(&change["deletedAt"]);
        assert!((before..=now_millis()).contains(&deleted), "{change}");
    }
}

#[tokio::test]
async fn values_of_every_kind_come_back_as_they_were_written() {
    let cluster = shared().await;
    let user = cluster.user();
    let values =
        [json!(null), json!(true), json!(""), json!([]), json!({}), json!({ "b": [1, { "a": null }], "a": "x" })];
    let changes: Vec<Value> = values
        .iter()
        .enumerate()
        .flat_map(|(id, value)| {
            let id = id.to_string();
            let data = json!({ "value": value, "updatedAt": AT });
            [
                update("todos", &id, "value", value.clone(), AT),
                json!({ "table": "todos", "id": id, "op": "insert", "data": data }),
            ]
        })
        .collect();
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": changes })).await;
    assert_eq!(as_others_see_it(cluster, &user).await, changes);
}
