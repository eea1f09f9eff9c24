//! The table, sentence by sentence of "Storage" in docs/protocol.md, and its contents after pushes.

use crate::support::*;
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::Row;

const AT: &str = "2024-01-01T10:05:00.000Z";

/// Collects the names of all nodes of a plan.
pub fn reads(plan: &Value, found: &mut Vec<String>) {
    match plan {
        Value::Array(parts) => parts.iter().for_each(|part| reads(part, found)),
        Value::Object(node) => {
            if let Some(kind) = node.get("Node Type").and_then(Value::as_str) {
                let index = node.get("Index Name").and_then(Value::as_str).unwrap_or("");
                found.push(format!("{kind} {index}").trim_end().to_owned());
            }
            node.values().for_each(|part| reads(part, found));
        }
        _ => {}
    }
}

/// The nodes of the plan without bitmap scans, whose results would have to be sorted.
async fn plan_of(cluster: &Cluster, query: &str) -> Vec<String> {
    let mut transaction = cluster.pool.begin().await.unwrap();
    sqlx::query("set local enable_bitmapscan = off").execute(&mut *transaction).await.unwrap();
    let statement = sqlx::AssertSqlSafe(format!("explain (format json) {query}"));
    let plan: Value = sqlx::query_scalar(statement).fetch_one(&mut *transaction).await.unwrap();
    let mut found = Vec::new();
    reads(&plan, &mut found);
    found
}

#[tokio::test]
async fn the_table_has_the_documented_columns() {
    let cluster = shared().await;
    let rows = sqlx::query(
        "select column_name::text as name, data_type::text as type, is_nullable = 'YES' as nullable,
                column_default::text as default
         from information_schema.columns where table_name = 'sync_changes'",
    )
    .fetch_all(&cluster.pool)
    .await
    .unwrap();
    let column = |name: &str| rows.iter().find(|row| row.get::<&str, _>("name") == name).unwrap();
    for (name, kind, nullable) in [
        ("id", "uuid", false),
        ("app_id", "text", false),
        ("table_name", "text", false),
        ("record_id", "text", false),
        ("user_id", "text", false),
        ("op", "text", false),
        ("data", "jsonb", true),
        ("field_timestamps", "jsonb", false),
        ("client_id", "text", false),
        ("created_at", "timestamp with time zone", false),
    ] {
        let row = column(name);
        assert_eq!((row.get::<&str, _>("type"), row.get::<bool, _>("nullable")), (kind, nullable), "{name}");
    }
    assert_eq!(column("field_timestamps").get::<&str, _>("default"), "'{}'::jsonb");
    let key: Vec<String> = sqlx::query_scalar(
        "select a.attname::text from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
         where i.indrelid = 'sync_changes'::regclass and i.indisprimary",
    )
    .fetch_all(&cluster.pool)
    .await
    .unwrap();
    assert_eq!(key, ["id"]);
}

#[tokio::test]
async fn the_op_is_checked_by_the_database_too() {
    let cluster = shared().await;
    let user = cluster.user();
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", AT)] })).await;
    let moved = sqlx::query("update sync_changes set op = 'move' where user_id = $1").bind(&user.id);
    let error = moved.execute(&cluster.pool).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("23514"), "{error}");
}

#[tokio::test]
async fn a_row_says_who_changed_what_where_and_when_each_field_was_written() {
    let cluster = shared().await;
    let user = cluster.user();
    let changes = json!([
        insert("todos", "a", "Milk", AT),
        update("todos", "b", "title", "Eggs", "2024-01-01T10:05:00Z"),
        { "table": "lists", "id": "c", "op": "delete", "deletedAt": AT },
    ]);
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": changes })).await;
    let rows = sqlx::query(
        "select app_id, table_name, record_id, op, data, field_timestamps, client_id
         from sync_changes where user_id = $1 order by created_at",
    )
    .bind(&user.id)
    .fetch_all(&cluster.pool)
    .await
    .unwrap();
    let text = |row: &sqlx::postgres::PgRow, name: &str| row.get::<String, _>(name);
    let found: Vec<Value> = rows
        .iter()
        .map(|row| {
            let names = ["app_id", "client_id", "table_name", "record_id", "op"].map(|name| text(row, name));
            json!([names, row.get::<Option<Value>, _>("data")])
        })
        .collect();
    let data = json!({ "title": "Milk", "createdAt": AT, "updatedAt": AT });
    let expected = [
        json!([["todo", "phone", "todos", "a", "insert"], data]),
        json!([["todo", "phone", "todos", "b", "update"], { "title": "Eggs" }]),
        json!([["todo", "phone", "lists", "c", "delete"], null]),
    ];
    assert_eq!(found, expected);
    let stamps: Vec<Value> = rows.iter().map(|row| row.get("field_timestamps")).collect();
    assert_eq!(stamps[1..], [json!({ "title": AT }), json!({ "deletedAt": AT })]);
}

#[tokio::test]
async fn positions_ascend_strictly_in_each_log_and_the_head_is_the_last_of_them_under_concurrent_pushes() {
    const PUSHES: usize = 45;
    let cluster = shared().await;
    let user = cluster.user();
    let push = |at: usize| {
        let user = &user;
        async move {
            let changes: Vec<Value> = (0..1 + at % 4).map(|n| insert("todos", &format!("{at}-{n}"), "a", AT)).collect();
            let body = json!({ "clientId": format!("device-{}", at % 7), "since": AT, "changes": changes });
            cluster.pushed_to(at, user, ["todo", "notes"][at % 2], body).await;
        }
    };
    join_all((0..PUSHES).map(push)).await;
    for app in ["todo", "notes"] {
        let rows = sqlx::query(
            "select created_at, record_id from sync_changes where user_id = $1 and app_id = $2 order by created_at",
        )
        .bind(&user.id)
        .bind(app)
        .fetch_all(&cluster.pool)
        .await
        .unwrap();
        let positions: Vec<DateTime<Utc>> = rows.iter().map(|row| row.get("created_at")).collect();
        assert!(positions.windows(2).all(|pair| pair[0] < pair[1]), "{positions:?}");
        // The changes of one push are adjacent, in their order.
        let ids: Vec<String> = rows.iter().map(|row| row.get("record_id")).collect();
        for pair in ids.windows(2) {
            let [(push, _), (next, number)] = [0, 1].map(|at| pair[at].split_once('-').unwrap());
            assert!(push == next || number == "0", "{ids:?}");
        }
        let head: DateTime<Utc> = sqlx::query_scalar("select head from sync_heads where user_id = $1 and app_id = $2")
            .bind(&user.id)
            .bind(app)
            .fetch_one(&cluster.pool)
            .await
            .unwrap();
        assert_eq!(Some(&head), positions.last());
    }
}

#[tokio::test]
async fn a_push_that_the_database_refuses_in_its_middle_leaves_no_row_and_no_head() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    sqlx::query("alter table sync_changes add constraint refused check (record_id <> '25')")
        .execute(&cluster.pool)
        .await
        .unwrap();
    let changes: Vec<Value> = (0..50).map(|at| insert("todos", &at.to_string(), "Milk", AT)).collect();
    let body = json!({ "clientId": "phone", "changes": changes });
    let message = cluster.push_raw(&user, "todo", body.to_string()).await.refused(500, "internal");
    assert!(!message.contains("refused"), "nothing of the inside: {message}");
    assert_eq!(cluster.stored(&user).await, 0);
    let heads: i64 = sqlx::query_scalar("select count(*) from sync_heads where user_id = $1")
        .bind(&user.id)
        .fetch_one(&cluster.pool)
        .await
        .unwrap();
    assert_eq!(heads, 0);
}

#[tokio::test]
async fn a_retried_push_leaves_the_rows_and_the_head_as_they_were() {
    let cluster = shared().await;
    let user = cluster.user();
    let rows = async || {
        let rows = "select json_agg(to_jsonb(c) order by created_at)::jsonb || (select to_jsonb(h) from sync_heads h where h.user_id = $1)
                    from sync_changes c where c.user_id = $1";
        sqlx::query_scalar::<_, Value>(rows).bind(&user.id).fetch_one(&cluster.pool).await.unwrap()
    };
    let changes = [insert("todos", "a", "Milk", AT), json!({ "table": "todos", "id": "b", "op": "delete" })];
    let body = json!({ "clientId": "phone", "changes": changes });
    cluster.pushed(&user, "todo", body.clone()).await;
    let before = rows().await;
    join_all((0..6).map(|at| cluster.pushed_to(at, &user, "todo", body.clone()))).await;
    assert_eq!(rows().await, before);
}

#[tokio::test]
async fn the_three_access_paths_are_served_by_indexes_in_order() {
    let cluster = Cluster::start(1).await;
    let users: Vec<User> = (0..20).map(|_| cluster.user()).collect();
    join_all(users.iter().enumerate().map(async |(at, user)| {
        let changes: Vec<Value> = (0..300)
            .map(|n| insert(["todos", "lists", "tags"][n % 3], &(n % 30).to_string(), &n.to_string(), AT))
            .collect();
        let body = json!({ "clientId": "phone", "since": AT, "changes": changes });
        cluster.pushed_to(at, user, "todo", body).await;
    }))
    .await;
    sqlx::query("analyze sync_changes").execute(&cluster.pool).await.unwrap();
    let log: uuid::Uuid = sqlx::query_scalar("select log_id from sync_heads where user_id = $1")
        .bind(&users[0].id)
        .fetch_one(&cluster.pool)
        .await
        .unwrap();
    let (by_log, by_user) = (format!("log_id = '{log}'"), format!("user_id = '{}' and app_id = 'todo'", users[0].id));
    for (what, log, condition, limit, index) in [
        ("changes of (user, app)", &by_log, "", "limit 50", "sync_changes_by_log"),
        ("changes of (user, app, table)", &by_user, "and table_name = 'todos'", "limit 20", "sync_changes_by_user"),
        ("changes of a record", &by_log, "and table_name = 'todos' and record_id = '3'", "", "sync_changes_by_record"),
    ] {
        let query = format!(
            "select data from sync_changes where {log} {condition} and created_at > '1970-01-01' order by created_at {limit}"
        );
        let reads = plan_of(&cluster, &query).await;
        assert!(reads.contains(&format!("Index Scan {index}")), "{what}: {reads:?}");
        assert!(!reads.iter().any(|node| node.contains("Seq Scan") || node.contains("Sort")), "{what}: {reads:?}");
    }
}

/// Pages are cut by stored sizes: none may be smaller than the encoded row.
#[tokio::test]
async fn a_size_is_never_below_what_a_row_is_written_out_as() {
    let cluster = shared().await;
    let user = cluster.user();
    let values = [
        json!([1, 2, [3, { "a": 1, "b": [] }]]),
        json!("x, y: \"z\" \u{1}\u{1f600}"),
        json!({ "n": [1.5e300, -5e-320, 1e21, 123456789] }),
        Value::Null,
    ];
    let mut changes = Vec::new();
    for (at, value) in values.iter().enumerate() {
        let at = at.to_string();
        let mut updated = update("todos", &at, "f", value.clone(), AT);
        updated["fields"]["g"] = json!({ "value": value, "updatedAt": "2099-01-01T00:00:00Z" });
        updated["actor"] = json!({ "of": value });
        let inserted =
            json!({ "table": "todos", "id": at, "op": "insert", "data": { "f": value, "g": value, "updatedAt": AT } });
        changes.extend([updated, inserted, json!({ "table": "todos", "id": at, "op": "delete", "deletedAt": AT })]);
    }
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "schemaVersion": 3, "changes": changes })).await;
    let short: Vec<String> = sqlx::query_scalar(
        "select to_jsonb(c)::text from sync_changes c where user_id = $1 and size <
             coalesce(octet_length(data::text), 0) + octet_length(field_timestamps::text) + coalesce(octet_length(extra::text), 0)",
    )
    .bind(&user.id)
    .fetch_all(&cluster.pool)
    .await
    .unwrap();
    assert_eq!(short, [""; 0]);
    assert_eq!(cluster.stored(&user).await, 12);
}
