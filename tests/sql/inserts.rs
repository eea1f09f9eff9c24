//! Plain inserts in the form of the previous server: their place in the log.

use super::support::*;
use super::{AT, sql};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row};

/// Returns the positions of a user's changes in an app, in order, and the head.
async fn positions(cluster: &Cluster, user: &User, app: &str) -> (Vec<i64>, i64) {
    let rows = sql(
        cluster,
        format!("select created_at from sync_changes where user_id = '{}' and app_id = '{app}' order by 1", user.id),
    )
    .await;
    let head = sql(cluster, format!("select head from sync_heads where user_id = '{}' and app_id = '{app}'", user.id));
    let micros = |row: &sqlx::postgres::PgRow| row.get::<DateTime<Utc>, _>(0).timestamp_micros();
    (rows.iter().map(micros).collect(), micros(&head.await[0]))
}

#[track_caller]
fn ascend_to_the_head((positions, head): &(Vec<i64>, i64)) {
    assert!(positions.windows(2).all(|pair| pair[0] < pair[1]), "{positions:?}");
    assert!(positions.iter().all(|at| at % 20 == 0), "{positions:?}");
    assert_eq!(positions.last(), Some(head));
}

#[tokio::test]
async fn the_words_of_todays_services_reach_every_device() {
    let cluster = shared().await;
    let user = cluster.user();
    let insert = "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, field_meta, client_id, schema_version, actor, origin)
                  values ('ai', 'aiMissions', $1, $2, 'update', $3, $4, 'runner', 1, $5, 'agent')";
    sqlx::query(insert)
        .bind("m-1")
        .bind(&user.id)
        .bind(json!({ "title": "Milk" }))
        .bind(json!({ "title": "2024-01-01T12:05:00.123456789+02:00" }))
        .bind(json!({ "kind": "ai" }))
        .execute(&cluster.pool)
        .await
        .unwrap();
    let spaced = format!(
        "insert into sync_changes (app_id, table_name, record_id, user_id, space_id, op, data, field_meta, client_id, schema_version, actor, origin)
         values ('ai', 'aiMissions', 'm-2', '{}', 'space-1', 'insert', '{{\"a\":1}}', '{{}}', 'runner', 1, null, 'system')",
        user.id
    );
    sql(cluster, spaced).await;
    let answer = cluster.pulled(&user, "ai", "aiMissions", BEGINNING, Some("phone")).await;
    assert_eq!(ids(&answer), ["m-1", "m-2"]);
    let title = &answer["serverChanges"][0]["fields"]["title"];
    assert_eq!((&title["value"], &title["updatedAt"]), (&json!("Milk"), &json!("2024-01-01T10:05:00.123Z")));
    // The device that wrote them does not get them back.
    assert_eq!(ids(&cluster.pulled(&user, "ai", "aiMissions", AT, Some("runner")).await), [""; 0]);
    let extra = format!("select extra from sync_changes where user_id = '{}' order by created_at", user.id);
    let extra: Vec<Value> = sql(cluster, extra).await.iter().map(|row| row.get(0)).collect();
    let expected = [
        json!({ "actor": { "kind": "ai" }, "origin": "agent", "schemaVersion": 1 }),
        json!({ "origin": "system", "spaceId": "space-1", "schemaVersion": 1 }),
    ];
    assert_eq!(extra, expected);
}

#[tokio::test]
async fn rows_of_one_statement_ascend_whatever_created_at_they_come_with() {
    let cluster = shared().await;
    let user = cluster.user();
    let many = format!(
        "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, created_at)
         select (array['todo', 'notes'])[1 + n % 2], 'tasks', n::text, '{}', 'update', '{{\"n\":1}}', '2020-01-01'
         from generate_series(1, 400) as n returning created_at",
        user.id
    );
    let returned = sql(cluster, many).await;
    for app in ["todo", "notes"] {
        let positions = positions(cluster, &user, app).await;
        assert_eq!(positions.0.len(), 200);
        ascend_to_the_head(&positions);
    }
    let oldest = returned.iter().map(|row| row.get::<DateTime<Utc>, _>(0)).min().unwrap();
    assert!(Utc::now() - oldest < chrono::TimeDelta::minutes(5), "{oldest}");
}

#[tokio::test]
async fn savepoints_and_several_statements_of_a_transaction_leave_the_head_at_the_last_row() {
    let cluster = shared().await;
    let user = cluster.user();
    let one = |id: &str| {
        format!(
            "insert into sync_changes (app_id, table_name, record_id, user_id, op)
             select app, 'tasks', '{id}' || n, '{}', 'delete' from generate_series(1, 3) as n, unnest(array['todo', 'notes']) as app",
            user.id
        )
    };
    let script = format!(
        "begin; {a}; savepoint s; {b}; rollback to s; {c};
         select sync_push('{user}', 'todo', 'sql', '[{{\"table\":\"tasks\",\"id\":\"p\",\"op\":\"delete\"}}]'); {d}; commit;
         begin; {e}; rollback",
        a = one("a"),
        b = one("b"),
        c = one("c"),
        d = one("d"),
        e = one("e"),
        user = user.id
    );
    sqlx::raw_sql(AssertSqlSafe(script)).execute(&cluster.pool).await.unwrap();
    for (app, ids) in [
        ("todo", &["a1", "a2", "a3", "c1", "c2", "c3", "p", "d1", "d2", "d3"][..]),
        ("notes", &["a1", "a2", "a3", "c1", "c2", "c3", "d1", "d2", "d3"]),
    ] {
        ascend_to_the_head(&positions(cluster, &user, app).await);
        assert_eq!(ids_of(&cluster.pull_all(&user, app, "tasks", AT, None).await), ids);
    }
}

#[tokio::test]
async fn returning_and_on_conflict_work_as_in_any_table() {
    let cluster = shared().await;
    let user = cluster.user();
    let insert = format!(
        "insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, client_id)
         values ('018cc47b-d8e0-44d9-8c76-e2428bc580f1', 'todo', 'tasks', 'a', '{}', 'insert', '{{\"a\":1}}', 'svc')
         on conflict do nothing returning id, client_id, created_at",
        user.id
    );
    let returned = sql(cluster, &insert).await;
    assert_eq!((returned.len(), returned[0].get::<&str, _>(1)), (1, "svc"));
    assert_eq!(sql(cluster, &insert).await.len(), 0, "it is there already");
    assert_eq!(cluster.stored(&user).await, 1);
    let tablet = cluster.pushed(&user, "todo", json!({ "clientId": "tablet", "since": AT, "changes": [] })).await;
    assert_eq!(ids(&tablet), ["a"]);
}

#[tokio::test]
async fn a_person_who_is_erased_leaves_a_log_that_goes_on() {
    let cluster = shared().await;
    let user = cluster.user();
    let one = |id: &str| json!({ "clientId": "phone", "since": AT, "changes": [insert("tasks", id, "Milk", AT)] });
    let before = until(&cluster.pushed(&user, "todo", one("a")).await).to_owned();
    sql(cluster, format!("delete from sync_changes where user_id = '{}'", user.id)).await;
    for since in [BEGINNING, &before] {
        let answer = cluster.pulled(&user, "todo", "tasks", since, Some("tablet")).await;
        assert_eq!((ids(&answer), until(&answer)), (vec![], before.as_str()));
    }
    cluster.pushed(&user, "todo", one("b")).await;
    let answer = cluster.pulled(&user, "todo", "tasks", &before, Some("tablet")).await;
    assert_eq!(ids(&answer), ["b"]);
    assert!(until(&answer) > before.as_str());
}
