//! Plain inserts: the parts that are stored, and refusals.

use super::support::*;
use super::{AT, refusal};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::Row;

/// Inserts a row; returns its operation, data, stamps and time as stored.
async fn insert_row(
    user: &User,
    op: &str,
    data: Option<Value>,
    stamps: Option<Value>,
) -> Result<(String, Option<Value>, Value, i64), sqlx::Error> {
    let statement = "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps)
                     values ('todo', 'tasks', 'a', $1, $2, $3, $4)
                     returning op, data, field_timestamps, created_at, size";
    let query = sqlx::query(statement).bind(&user.id).bind(op).bind(data).bind(stamps);
    let row = query.fetch_one(&shared().await.pool).await?;
    let (data, stamps): (Option<Value>, Value) = (row.get(1), row.get(2));
    let length =
        |value: &Value| sqlx::query_scalar::<_, i32>("select octet_length($1::jsonb::text)").bind(value.clone());
    let mut size = length(&stamps).fetch_one(&shared().await.pool).await?;
    if let Some(data) = &data {
        size += length(data).fetch_one(&shared().await.pool).await?;
    }
    assert_eq!(row.get::<i32, _>("size"), size);
    Ok((row.get(0), data, stamps, row.get::<DateTime<Utc>, _>(3).timestamp_millis()))
}

#[tokio::test]
async fn stamps_are_stored_as_the_replicas_store_them() {
    let user = shared().await.user();
    let odd = "2024-01-01t12:05:00.000999+02:00";
    // Operation, data and stamps as written, and as stored. NOW stands for the time of storing.
    let cases = [
        ("update", json!({ "a": 1 }), json!({ "a": odd }), json!({ "a": 1 }), json!({ "a": AT })),
        (
            "update",
            json!({ "a": 1, "b": 2 }),
            json!({ "a": "", "c": odd }),
            json!({ "a": 1, "b": 2, "c": null }),
            json!({ "a": "NOW", "b": "NOW", "c": AT }),
        ),
        ("update", json!({ "a": 1 }), json!(null), json!({ "a": 1 }), json!({ "a": "NOW" })),
        ("update", json!(null), json!({ "a": null }), json!({}), json!({})),
        (
            "insert",
            json!({ "a": 1, "updatedAt": odd }),
            json!({ "a": "2030-01-01T00:00:00Z" }),
            json!({ "a": 1, "updatedAt": AT }),
            json!({}),
        ),
        (
            "insert",
            json!({ "updatedAt": "", "createdAt": odd }),
            json!(null),
            json!({ "updatedAt": "", "createdAt": AT }),
            json!({}),
        ),
        ("insert", json!({ "a": 1 }), json!({}), json!({ "a": 1 }), json!({})),
        ("insert", json!(null), json!(null), json!({}), json!({})),
        ("delete", json!({ "deletedAt": odd }), json!({}), json!(null), json!({ "deletedAt": AT })),
        ("delete", json!(null), json!({ "deletedAt": odd }), json!(null), json!({ "deletedAt": AT })),
        ("delete", json!({ "deletedAt": "" }), json!(null), json!(null), json!({ "deletedAt": "NOW" })),
        ("delete", json!({ "title": 1 }), json!(null), json!(null), json!({ "deletedAt": "NOW" })),
    ];
    for (op, data, stamps, stored_data, stored_stamps) in cases {
        let what = format!("{op} {data} {stamps}");
        let given = [data, stamps].map(|value| (!value.is_null()).then_some(value));
        let [data, stamps] = given;
        let (op_now, data, stamps, at) = insert_row(&user, op, data, stamps).await.unwrap();
        let stamps = stamps.to_string().replace(&iso(at), "NOW");
        let found = (op_now.as_str(), data.unwrap_or_default(), stamps);
        assert_eq!(found, (op, stored_data, stored_stamps.to_string()), "{what}");
    }
}

#[tokio::test]
async fn an_insert_whose_stamps_stand_beside_its_data_keeps_them_as_an_update() {
    let user = shared().await.user();
    let stored = insert_row(&user, "insert", Some(json!({ "a": 1, "b": 2 })), Some(json!({ "a": AT }))).await.unwrap();
    assert_eq!(stored.0, "update");
    assert_eq!(stored.1, Some(json!({ "a": 1, "b": 2 })));
    assert_eq!(stored.2, json!({ "a": AT, "b": BEGINNING }));
}

#[tokio::test]
async fn a_stamp_far_in_the_future_is_held_to_five_minutes() {
    let user = shared().await.user();
    for far in ["2999-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00"] {
        let cases = [
            ("update", json!({ "a": 1 }), json!({ "a": far }), "a"),
            ("insert", json!({ "updatedAt": far }), json!({}), "updatedAt"),
            ("delete", json!({ "deletedAt": far }), json!({}), "deletedAt"),
        ];
        for (op, data, stamps, member) in cases {
            let (_, data, stamps, at) = insert_row(&user, op, Some(data), Some(stamps)).await.unwrap();
            let holder = if op == "insert" { data.unwrap() } else { stamps };
            let stored = chrono::DateTime::parse_from_rfc3339(holder[member].as_str().unwrap()).unwrap();
            let ahead = stored.timestamp_millis() - at;
            assert!((290_000..=300_000).contains(&ahead), "{op} of {far}: {ahead} ms ahead");
        }
    }
}

#[tokio::test]
async fn what_no_replica_could_read_is_refused_and_leaves_nothing() {
    let cluster = shared().await;
    let user = cluster.user();
    for (op, data, stamps, because) in [
        ("update", json!({ "a": 1 }), json!({ "a": "yesterday" }), "the stamp of field \"a\" is not an RFC 3339"),
        ("update", json!({ "a": 1 }), json!({ "a": 17 }), "the stamp of field \"a\" is not an RFC 3339"),
        ("update", json!({ "a": 1 }), json!({ "a": "0000-01-01T00:00:00+01:00" }), "is not an RFC 3339"),
        ("update", json!([1]), json!({}), "data must be a JSON object"),
        ("update", json!("a"), json!({}), "data must be a JSON object"),
        ("insert", json!(7), json!({}), "data must be a JSON object"),
        ("update", json!({ "a": 1 }), json!(["a"]), "field_timestamps must be a JSON object"),
        ("delete", json!({ "deletedAt": "soon" }), json!({}), "deletedAt of data is not an RFC 3339"),
        ("delete", json!(null), json!({ "deletedAt": false }), "the stamp of deletedAt is not an RFC 3339"),
    ] {
        let said = refusal(insert_row(&user, op, Some(data), Some(stamps)).await);
        assert!(said.contains(because), "{said}, not {because}");
    }
    for (column, value, because) in [
        ("table_name", "''", "table_name is missing or empty"),
        ("record_id", "null", "record_id is missing or empty"),
        ("record_id", "repeat('x', 1025)", "record_id is longer than 1024 bytes"),
        ("table_name", "repeat('x', 256)", "table_name is longer than 255 bytes"),
        ("app_id", "''", "app_id is missing or empty"),
        ("client_id", "repeat('x', 256)", "client_id is longer than 255 bytes"),
        ("actor", "to_jsonb(repeat('x', 17000))", "take more than 16 KiB"),
        ("data", "('{\"a\":' || repeat('9', 1100) || '}')::jsonb", "a number of more than 1000 digits"),
        ("data", "(repeat('{\"a\":', 600) || '1' || repeat('}', 600))::jsonb", "nested more than 512 levels deep"),
        ("data", "jsonb_build_object('a', repeat('x', 11000000))", "data is longer than 10 MB"),
    ] {
        let mut columns =
            vec![("app_id", "'todo'"), ("table_name", "'tasks'"), ("record_id", "'a'"), ("op", "'insert'")];
        columns.retain(|(name, _)| *name != column);
        let (names, values): (Vec<&str>, Vec<&str>) = columns.into_iter().chain([(column, value)]).unzip();
        let insert = format!(
            "insert into sync_changes (user_id, {}) values ('{}', {})",
            names.join(", "),
            user.id,
            values.join(", ")
        );
        let said = refusal(super::rows(cluster, insert).await);
        assert!(said.contains(because), "{said}, not {because}");
    }
    assert_eq!(cluster.stored(&user).await, 0);
    let heads = sqlx::query("select from sync_heads where user_id = $1").bind(&user.id);
    assert_eq!(heads.fetch_all(&cluster.pool).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_row_without_a_client_reaches_every_device() {
    let cluster = shared().await;
    let user = cluster.user();
    for client in ["null", "''"] {
        let insert = format!(
            "insert into sync_changes (app_id, table_name, record_id, user_id, op, client_id)
             values ('todo', 'tasks', 'a', '{}', 'delete', {client})",
            user.id
        );
        super::sql(cluster, insert).await;
    }
    assert_eq!(ids(&cluster.pulled(&user, "todo", "tasks", AT, Some("phone")).await), ["a", "a"]);
}
