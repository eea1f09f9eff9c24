//! `sync_push`: a push as over HTTP, in the caller's transaction.

use super::support::*;
use super::{AT, refusal, sql, sync_push};
use serde_json::{Value, json};
use sqlx::Row;

const NOW_ISH: &str = "2";

/// The rows of a user, without the columns that differ from push to push.
async fn stored(cluster: &Cluster, user: &User) -> Vec<Value> {
    let rows = format!(
        "select to_jsonb(c) - array['id', 'user_id', 'log_id', 'created_at', 'size'] from sync_changes c
         where user_id = '{}' order by created_at",
        user.id
    );
    sql(cluster, rows).await.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn what_a_push_stores_is_what_sync_push_stores() {
    let cluster = shared().await;
    let odd = "2024-01-01t12:05:00.000999+02:00";
    let changes = json!([
        insert("tasks", "a", "Milk", odd),
        { "table": "tasks", "id": "b", "op": "insert" },
        { "table": "tasks", "id": "b2", "op": "insert", "data": { "updatedAt": "", "createdAt": odd, "n": [1, { "x": null }] } },
        { "table": "lists", "id": "c", "op": "update", "fields": { "t": { "value": "Eggs", "updatedAt": odd }, "u": { "at": AT } } },
        { "table": "lists", "id": "c", "op": "update", "fields": {} },
        { "table": "lists", "id": "d", "op": "delete", "deletedAt": odd },
    ]);
    let [by_http, by_sql] = [cluster.user(), cluster.user()];
    let answer =
        cluster.pushed(&by_http, "todo", json!({ "clientId": "phone", "since": AT, "changes": changes })).await;
    let cursor = sync_push(cluster, &by_sql, "phone", &changes).await.unwrap();
    assert_eq!((cursor.len(), until(&answer).len()), (27, 27));
    assert!(cursor.ends_with('Z') && cursor.starts_with(NOW_ISH), "{cursor}");
    assert_eq!(stored(cluster, &by_sql).await, stored(cluster, &by_http).await);
    // The cursor is that of the newest change.
    let after = cluster.pushed(&by_sql, "todo", json!({ "clientId": "tablet", "since": cursor, "changes": [] })).await;
    assert_eq!((ids(&after), until(&after)), (vec![], cursor.as_str()));
    let all = cluster.push_all(&by_sql, "todo", AT, "tablet").await;
    assert_eq!(ids_of(&all), ["a", "b", "b2", "c", "c", "d"]);
}

#[tokio::test]
async fn what_a_push_refuses_is_refused_with_the_index_and_the_reason() {
    let cluster = shared().await;
    let field = |field: Value| json!({ "table": "t", "id": "a", "op": "update", "fields": { "f": field } });
    for change in [
        json!(1),
        json!([]),
        json!({ "table": "t", "id": "a", "op": "upsert" }),
        json!({ "table": "t", "id": "a" }),
        json!({ "table": "t", "id": "a", "op": 7 }),
        json!({ "table": "", "id": "a", "op": "delete" }),
        json!({ "table": ["t"], "id": "a", "op": "delete" }),
        json!({ "table": "t", "op": "delete" }),
        json!({ "table": "t", "id": "x".repeat(1025), "op": "delete" }),
        json!({ "table": "t".repeat(256), "id": "a", "op": "delete" }),
        json!({ "table": "t", "id": "a", "op": "update" }),
        json!({ "table": "t", "id": "a", "op": "update", "fields": [] }),
        json!({ "table": "t", "id": "a", "op": "update", "fields": null }),
        json!({ "table": "t", "id": "a", "op": "insert", "data": [1] }),
        json!({ "table": "t", "id": "a", "op": "delete", "deletedAt": "" }),
        json!({ "table": "t", "id": "a", "op": "delete", "deletedAt": "soon" }),
        json!({ "table": "t", "id": "a", "op": "delete", "deletedAt": 17 }),
        field(json!({ "value": 1 })),
        field(json!({ "value": 1, "updatedAt": "" })),
        field(json!({ "value": 1, "at": "2024-01-01" })),
        field(json!(AT)),
    ] {
        let user = cluster.user();
        let changes = json!([insert("tasks", "good", "Milk", AT), change]);
        let said = refusal(sync_push(cluster, &user, "phone", &changes).await);
        assert!(said.starts_with("changes[1]"), "{change}: {said}");
        let (status, _) = cluster.push(&user, "todo", json!({ "clientId": "phone", "changes": changes })).await;
        assert_eq!(status.as_u16(), 400, "{change} is refused here only");
        assert_eq!(cluster.stored(&user).await, 0);
    }
    let user = cluster.user();
    for changes in [json!(null), json!({}), json!("[]")] {
        assert_eq!(refusal(sync_push(cluster, &user, "phone", &changes).await), "changes must be a list of changes");
    }
    assert!(refusal(sync_push(cluster, &user, &"x".repeat(256), &json!([])).await).contains("client_id is longer"));
}

#[tokio::test]
async fn a_change_is_stored_once_whatever_push_it_comes_in() {
    let cluster = shared().await;
    let user = cluster.user();
    let far = "2999-01-01T00:00:00Z";
    let old = [insert("tasks", "a", "Milk", AT), update("tasks", "a", "title", "Eggs", far)];
    let more = [old[0].clone(), update("tasks", "a", "title", "Bread", AT), old[1].clone(), old[1].clone()];
    let first = sync_push(cluster, &user, "phone", &json!(old)).await.unwrap();
    assert_eq!(sync_push(cluster, &user, "phone", &json!(old)).await.unwrap(), first, "nothing is new");
    let second = sync_push(cluster, &user, "phone", &json!(more)).await.unwrap();
    assert!(second > first);
    assert_eq!(cluster.stored(&user).await, 3);
    // The same change from another device is a different one.
    sync_push(cluster, &user, "tablet", &json!(old)).await.unwrap();
    assert_eq!(cluster.stored(&user).await, 5);
    let same = sync_push(cluster, &user, "tablet", &json!([])).await.unwrap();
    assert_eq!(sync_push(cluster, &user, "tablet", &json!(old)).await.unwrap(), same);
    assert_eq!(sync_push(cluster, &cluster.user(), "phone", &json!([])).await.unwrap(), "1970-01-01T00:00:00.000000Z");
}

#[tokio::test]
async fn the_same_push_at_once_is_stored_once() {
    let cluster = shared().await;
    let user = cluster.user();
    let changes = json!([insert("tasks", "a", "Milk", AT), insert("tasks", "b", "Milk", AT)]);
    let pushes = (0..6).map(|_| sync_push(cluster, &user, "phone", &changes));
    let cursors = futures_util::future::try_join_all(pushes).await.unwrap();
    assert!(cursors.iter().all(|cursor| *cursor == cursors[0]), "{cursors:?}");
    assert_eq!(cluster.stored(&user).await, 2);
}

#[tokio::test]
async fn it_is_part_of_the_callers_transaction() {
    let cluster = shared().await;
    let user = cluster.user();
    let changes = json!([insert("tasks", "a", "Milk", AT)]);
    let mut transaction = cluster.pool.begin().await.unwrap();
    let push = sqlx::query_scalar::<_, String>("select sync_push($1, 'todo', 'svc', $2)").bind(&user.id).bind(&changes);
    push.fetch_one(&mut *transaction).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(cluster.stored(&user).await, 0);
    sync_push(cluster, &user, "svc", &changes).await.unwrap();
    assert_eq!(cluster.stored(&user).await, 1);
}
