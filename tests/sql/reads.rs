//! Reads of current records, and of the log by index.

use super::support::*;
use super::{AT, sql, sync_push};
use mana_load::fold::{fold_rows, read_rows};
use serde_json::{Map, Value, json};
use sqlx::Row;
use std::collections::BTreeMap;

/// Current records by table and id: data, and whether it is deleted.
async fn records(cluster: &Cluster, user: &User, table: Option<&str>) -> BTreeMap<(String, String), (Value, bool)> {
    let query = sqlx::query("select * from sync_records($1, 'todo', $2)").bind(&user.id).bind(table);
    let rows = query.fetch_all(&cluster.pool).await.unwrap();
    rows.iter()
        .map(|row| ((row.get("table_name"), row.get("record_id")), (row.get("data"), row.get("deleted"))))
        .collect()
}

#[tokio::test]
async fn whoever_has_another_search_path_names_the_schema() {
    let cluster = shared().await;
    let user = cluster.user();
    let program = async |statement: &str| {
        let mut program = cluster.pool.begin().await.unwrap();
        sqlx::query("set local search_path = pg_catalog").execute(&mut *program).await.unwrap();
        let row =
            sqlx::query(sqlx::AssertSqlSafe(statement)).bind(&user.id).fetch_optional(&mut *program).await.unwrap();
        program.commit().await.unwrap();
        row.map(|row| row.get::<i64, _>(0))
    };
    program(
        "insert into public.sync_changes (app_id, table_name, record_id, user_id, op, data)
         values ('todo', 'tasks', 'a', $1, 'update', '{\"n\":1}')",
    )
    .await;
    let change = r#"[{"table":"tasks","id":"b","op":"insert","data":{"n":2}}]"#;
    program(&format!("select length(public.sync_push($1, 'todo', 'svc', '{change}'))::int8")).await;
    assert_eq!(program("select count(*) from public.sync_records($1, 'todo')").await, Some(2));
    assert_eq!(program("select changes from public.sync_usage($1)").await, Some(2));
}

#[tokio::test]
async fn records_stand_as_every_device_has_them_in_the_end() {
    let cluster = shared().await;
    let user = cluster.user();
    let stamp = |n: usize| iso(1_704_103_500_000 + (n * 7 % 5) as i64);
    for round in 0..40 {
        let id = ["a", "b", "c"][round % 3];
        let table = ["tasks", "lists"][round % 2];
        let changes = json!([
            update(table, id, ["title", "done"][round % 5 % 2], round, &stamp(round)),
            match round % 4 {
                0 => insert(table, id, &round.to_string(), &stamp(round + 1)),
                1 => json!({ "table": table, "id": id, "op": "delete", "deletedAt": stamp(round + 2) }),
                _ => update(table, id, "deletedAt", Value::Null, &stamp(round + 3)),
            },
        ]);
        if round % 2 == 0 {
            sync_push(cluster, &user, "svc", &changes).await.unwrap();
        } else {
            let body = json!({ "clientId": "phone", "since": AT, "changes": changes });
            cluster.pushed_to(round, &user, "todo", body).await;
        }
    }
    let expected = fold_rows(&read_rows(&cluster.pool, &user.id, "todo").await.unwrap()).unwrap();
    let found = records(cluster, &user, None).await;
    assert_eq!(found.len(), 6);
    for ((table, id), (data, deleted)) in &found {
        let folded = expected.record(table, id).unwrap();
        let folded: Map<String, Value> = folded.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        assert_eq!(data, &Value::Object(folded), "{table} {id}");
        assert_eq!(*deleted, !data["deletedAt"].is_null(), "{table} {id}");
    }
    assert!(found.values().any(|(_, deleted)| *deleted) && found.values().any(|(_, deleted)| !*deleted));
    let tasks = records(cluster, &user, Some("tasks")).await;
    assert_eq!(tasks, found.into_iter().filter(|((table, _), _)| table == "tasks").collect());
}

#[tokio::test]
async fn ties_go_to_the_later_and_what_has_no_stamp_loses_to_every_edit() {
    let cluster = shared().await;
    let user = cluster.user();
    let changes = json!([
        update("tasks", "a", "title", "old edit", "1999-01-01T00:00:00Z"),
        { "table": "tasks", "id": "a", "op": "insert", "data": { "title": "unstamped", "n": 1 } },
        update("tasks", "b", "title", "first", AT),
        update("tasks", "b", "title", "second", AT),
        { "table": "tasks", "id": "c", "op": "insert", "data": {} },
        { "table": "tasks", "id": "d", "op": "delete", "deletedAt": AT },
        update("tasks", "d", "deletedAt", Value::Null, "2024-01-01T10:05:00.001Z"),
    ]);
    sync_push(cluster, &user, "svc", &changes).await.unwrap();
    let statement = format!("select * from sync_records('{}', 'todo') order by record_id", user.id);
    let found: Vec<Value> = sql(cluster, statement)
        .await
        .iter()
        .map(|row| {
            let at: Option<chrono::DateTime<chrono::Utc>> = row.get("updated_at");
            let at = at.map(|at| iso(at.timestamp_millis()));
            json!([
                row.get::<Value, _>("data"),
                row.get::<Value, _>("field_timestamps"),
                row.get::<bool, _>("deleted"),
                at
            ])
        })
        .collect();
    let expected = [
        json!([{ "title": "old edit", "n": 1 }, { "title": "1999-01-01T00:00:00.000Z", "n": BEGINNING }, false, "1999-01-01T00:00:00.000Z"]),
        json!([{ "title": "second" }, { "title": AT }, false, AT]),
        json!([{}, {}, false, null]),
        json!([{ "deletedAt": null }, { "deletedAt": "2024-01-01T10:05:00.001Z" }, false, "2024-01-01T10:05:00.001Z"]),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn the_reads_of_todays_services_are_answered_by_an_index() {
    let cluster = Cluster::start(1).await;
    let fill = "insert into sync_changes (app_id, table_name, record_id, user_id, op, data)
                select 'todo', (array['tasks', 'lists', 'tags'])[1 + n % 3], 'r' || n % 50, 'user-' || n % 40, 'insert', '{\"a\":1}'
                from generate_series(1, 8000) as n";
    sql(&cluster, fill).await;
    sql(&cluster, "analyze sync_changes").await;
    let of_table = "user_id = 'user-3' and app_id = 'todo' and table_name = 'tasks'";
    for read in [
        format!("select record_id, data from sync_changes where {of_table} order by created_at"),
        format!("select record_id, data from sync_changes where {of_table} order by created_at limit 10"),
        format!("select distinct on (record_id) record_id, data, op from sync_changes where {of_table} order by record_id, created_at desc"),
        "select 1 from sync_changes where table_name = 'tasks' and record_id = 'singleton' and user_id = 'user-3' limit 1".to_owned(),
        "delete from sync_changes where user_id = 'user-3'".to_owned(),
    ] {
        let plan = sql(&cluster, format!("explain {read}")).await;
        let plan: Vec<&str> = plan.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        // Since version 18 PostgreSQL also uses an index whose first column is not named, here the log.
        let uses = ["sync_changes_by_user", "sync_changes_by_record"].iter().any(|index| plan.contains(index));
        assert!(uses && !plan.contains("Seq Scan"), "{read}:\n{plan}");
    }
}
