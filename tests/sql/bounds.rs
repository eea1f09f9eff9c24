//! A program's writes are bounded like pushes, and cost in proportion to their length.

use super::support::*;
use super::{AT, refusal, sql, sync_push};
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, Row};

fn wide_update(fields: usize, bytes: usize) -> Value {
    let field = json!({ "value": "x".repeat(bytes), "updatedAt": AT });
    let fields: Map<String, Value> = (0..fields).map(|n| (format!("f{n}"), field.clone())).collect();
    json!({ "table": "tasks", "id": "wide", "op": "update", "fields": fields })
}

#[tokio::test]
async fn a_call_has_at_most_ten_megabytes_however_they_are_divided() {
    let cluster = shared().await;
    let large =
        json!({ "table": "tasks", "id": "a", "op": "insert", "data": { "a": "x".repeat(6 << 20), "updatedAt": AT } });
    for changes in [
        json!([wide_update(20, 600_000)]),
        json!([wide_update(4_000, 2_700)]),
        json!([large, insert("tasks", "b", "Milk", AT), wide_update(1, 5 << 20)]),
        json!({ "not": "x".repeat(11 << 20) }),
    ] {
        let user = cluster.user();
        let said = refusal(sync_push(cluster, &user, "svc", &changes).await);
        assert!(said.contains("more than 10 MB"), "{said}");
        assert_eq!(cluster.stored(&user).await, 0);
        let heads = sqlx::query("select from sync_heads where user_id = $1").bind(&user.id);
        assert_eq!(heads.fetch_all(&cluster.pool).await.unwrap().len(), 0);
    }
    let user = cluster.user();
    sync_push(cluster, &user, "svc", &json!([wide_update(4_000, 2_000)])).await.unwrap();
    let answer = cluster.pulled(&user, "todo", "tasks", AT, None).await;
    assert_eq!(answer["serverChanges"][0]["fields"].as_object().unwrap().len(), 4_000);
}

#[tokio::test]
async fn what_is_refused_has_not_waited_for_the_log() {
    let cluster = shared().await;
    let user = cluster.user();
    let mut other = cluster.pool.begin().await.unwrap();
    let holds = format!(
        "insert into sync_changes (app_id, table_name, record_id, user_id, op) values ('todo', 'tasks', 'a', '{}', 'delete')",
        user.id
    );
    sqlx::query(AssertSqlSafe(holds)).execute(&mut *other).await.unwrap();
    let wrong = json!([insert("tasks", "b", "Milk", AT), { "table": "tasks", "id": "c", "op": "move" }]);
    let mut program = cluster.pool.begin().await.unwrap();
    sqlx::query("set local lock_timeout = '300ms'").execute(&mut *program).await.unwrap();
    let push = |changes: Value| sqlx::query("select sync_push($1, 'todo', 'svc', $2)").bind(&user.id).bind(changes);
    let said = refusal(push(wrong).execute(&mut *program).await);
    assert!(said.starts_with("changes[1]: op must be"), "{said}");
    program.rollback().await.unwrap();
    other.rollback().await.unwrap();
}

#[tokio::test]
async fn a_change_is_the_same_however_its_stamps_are_spelled_and_named() {
    let cluster = shared().await;
    let user = cluster.user();
    let update = |field: Value| json!({ "table": "tasks", "id": "a", "op": "update", "fields": { "t": field } });
    let changes = [
        update(json!({ "value": 1, "updatedAt": AT })),
        update(json!({ "value": 1, "at": AT })),
        update(json!({ "value": 1, "at": AT, "updatedAt": AT })),
        update(json!({ "value": 1, "at": "2024-01-01T12:05:00.000999+02:00", "updatedAt": null })),
        update(json!({ "value": 1, "updatedAt": "2024-01-01t10:05:00z" })),
        json!({ "table": "tasks", "id": "a", "op": "delete", "deletedAt": AT }),
        json!({ "table": "tasks", "id": "a", "op": "delete", "deletedAt": "2024-01-01T11:05:00+01:00", "eventId": "mine" }),
    ];
    sync_push(cluster, &user, "svc", &json!(changes)).await.unwrap();
    for change in changes {
        sync_push(cluster, &user, "svc", &json!([change])).await.unwrap();
    }
    assert_eq!(cluster.stored(&user).await, 2);
    sync_push(cluster, &user, "svc", &json!([update(json!({ "value": 2, "at": AT }))])).await.unwrap();
    assert_eq!(cluster.stored(&user).await, 3);
}

#[tokio::test]
async fn an_insert_without_a_stamp_counts_as_often_as_one_call_has_it() {
    let cluster = shared().await;
    let [by_http, by_sql] = [cluster.user(), cluster.user()];
    let one = |title: &str| json!({ "table": "tasks", "id": "a", "op": "insert", "data": { "title": title } });
    let changes = json!([
        one("Milk"),
        one("Eggs"),
        one("Milk"),
        insert("tasks", "b", "Tea", AT),
        insert("tasks", "b", "Tea", AT)
    ]);
    for _ in 0..2 {
        cluster.pushed(&by_http, "todo", json!({ "clientId": "svc", "since": AT, "changes": changes })).await;
        sync_push(cluster, &by_sql, "svc", &changes).await.unwrap();
    }
    for user in [&by_http, &by_sql] {
        assert_eq!(cluster.stored(user).await, 4);
        let records = format!("select data ->> 'title' from sync_records('{}', 'todo') order by record_id", user.id);
        let titles: Vec<String> = sql(cluster, records).await.iter().map(|row| row.get(0)).collect();
        assert_eq!(titles, ["Milk", "Tea"]);
    }
}

/// Returns how many versions of heads a statement writes. The statement is committed.
async fn head_versions(cluster: &Cluster, statement: String) -> i64 {
    let versions = "select (n_tup_ins + n_tup_upd)::int8 from pg_stat_xact_user_tables where relname = 'sync_heads'";
    let mut program = cluster.pool.begin().await.unwrap();
    // Earlier writes of this connection may not have been reported yet.
    let before: i64 = sqlx::query_scalar(versions).fetch_one(&mut *program).await.unwrap();
    sqlx::query(AssertSqlSafe(statement)).execute(&mut *program).await.unwrap();
    let after: i64 = sqlx::query_scalar(versions).fetch_one(&mut *program).await.unwrap();
    program.commit().await.unwrap();
    after - before
}

/// The number of heads that differ from the end of their log, for user ids with this prefix.
async fn wrong_heads(cluster: &Cluster, users: &str) -> i64 {
    let wrong = format!(
        "select count(*) from sync_heads h where h.user_id like '{users}%'
         and h.head is distinct from (select max(c.created_at) from sync_changes c where c.log_id = h.log_id)"
    );
    sql(cluster, wrong).await[0].get(0)
}

#[tokio::test]
async fn rows_of_many_logs_in_any_order_write_each_head_twice_at_most() {
    // With buckets, each row is a statement of its own.
    if std::env::var(TEST_BUCKETS).is_ok() {
        return;
    }
    let cluster = shared().await;
    let users = format!("many-{}-", uuid::Uuid::new_v4().simple());
    // The first row of each log, and the end.
    for (rows, logs, expected) in [(600, 2, 4), (600, 150, 300)] {
        let many = format!(
            "insert into sync_changes (app_id, table_name, record_id, user_id, op)
             select 'todo', 'tasks', n::text, '{users}' || {logs} || '-' || n % {logs}, 'delete' from generate_series(1, {rows}) as n"
        );
        assert_eq!(head_versions(cluster, many).await, expected, "{rows} rows of {logs} logs");
    }
    assert_eq!(wrong_heads(cluster, &users).await, 0);
}

#[tokio::test]
async fn rows_of_more_logs_than_are_kept_in_mind_leave_every_head_at_its_last_row() {
    let cluster = shared().await;
    let users = format!("more-{}-", uuid::Uuid::new_v4().simple());
    let many = format!(
        "insert into sync_changes (app_id, table_name, record_id, user_id, op)
         select 'todo', 'tasks', n::text, '{users}' || n % 1100, 'delete' from generate_series(1, 2300) as n"
    );
    sql(cluster, many).await;
    assert_eq!(wrong_heads(cluster, &users).await, 0);
    let user = cluster.user_named(&format!("{users}7"));
    assert_eq!(ids_of(&cluster.pull_all(&user, "todo", "tasks", AT, None).await), ["7", "1107", "2207"]);
}

#[tokio::test]
async fn a_log_whose_head_is_ahead_of_the_clock_costs_no_more() {
    let cluster = shared().await;
    let user = cluster.user();
    let one = |from: u32, to: u32| {
        format!(
            "insert into sync_changes (app_id, table_name, record_id, user_id, op)
             select 'todo', 'tasks', n::text, '{}', 'delete' from generate_series({from}, {to}) as n",
            user.id
        )
    };
    sql(cluster, one(1, 3)).await;
    if std::env::var(TEST_BUCKETS).is_ok() {
        return;
    }
    // As after a takeover of rows with a future time.
    let ahead = "update sync_changes set created_at = created_at + interval '2 days' where user_id = $1";
    sqlx::query(ahead).bind(&user.id).execute(&cluster.pool).await.unwrap();
    let ahead = "update sync_heads set head = head + interval '2 days' where user_id = $1";
    sqlx::query(ahead).bind(&user.id).execute(&cluster.pool).await.unwrap();
    assert_eq!(head_versions(cluster, one(4, 300)).await, 2);
    assert_eq!(wrong_heads(cluster, &user.id).await, 0);
    let pages = cluster.pull_all(&user, "todo", "tasks", AT, None).await;
    assert_eq!(ids_of(&pages), (1..=300).map(|n| n.to_string()).collect::<Vec<_>>());
}
