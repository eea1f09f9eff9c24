//! A change that is sent again after it was trimmed.

use super::support::*;
use super::{APP, TABLE, at, history, rows, trim};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn it_is_recognized_in_the_history() {
    let cluster = shared().await;
    let user = cluster.user();
    let first = json!([update(TABLE, "a", "title", 1, &at(1)), update(TABLE, "b", "title", 1, &at(1))]);
    let body = json!({ "clientId": "phone", "since": BEGINNING, "changes": first });
    cluster.pushed(&user, APP, body.clone()).await;
    let second = json!([update(TABLE, "a", "title", 2, &at(2))]);
    cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": second })).await;
    let third = json!([update(TABLE, "a", "title", 3, &at(3))]);
    cluster.pushed(&user, APP, json!({ "clientId": "laptop", "since": BEGINNING, "changes": third })).await;
    trim(cluster, &user, Duration::ZERO, 30).await;
    let kept = rows(cluster, &user).await;
    assert_eq!((kept.len(), history(cluster, &user).await), (3, 1), "{kept:?}");
    // The same push, and one with a new change.
    let more = json!([second[0], update(TABLE, "c", "title", 1, &at(1))]);
    cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": at(0), "changes": second })).await;
    cluster.pushed(&user, APP, body).await;
    assert_eq!(rows(cluster, &user).await, kept);
    cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": at(0), "changes": more })).await;
    let after = rows(cluster, &user).await;
    assert_eq!((after.len(), after[3].0.as_str()), (4, "c"));
    // The same from SQL.
    let push = |changes: serde_json::Value| {
        let statement = sqlx::query("select sync_push($1, $2, 'svc', $3)");
        statement.bind(user.id.clone()).bind(APP).bind(changes).execute(&cluster.pool)
    };
    let (old, new) = (json!([update(TABLE, "d", "title", 1, &at(1))]), json!([update(TABLE, "d", "title", 2, &at(2))]));
    push(json!([update(TABLE, "d", "title", 0, &at(0))])).await.unwrap();
    push(old.clone()).await.unwrap();
    push(new).await.unwrap();
    trim(cluster, &user, Duration::ZERO, 30).await;
    let kept = rows(cluster, &user).await;
    push(old).await.unwrap();
    assert_eq!(rows(cluster, &user).await, kept);
}

/// No history is kept: the change is stored again, loses, and is trimmed again.
#[tokio::test]
async fn without_a_history_it_loses_again() {
    let cluster = shared().await;
    let user = cluster.user();
    let push = async |device: &str, value: i64| {
        let changes = json!([update(TABLE, "a", "title", value, &at(value))]);
        cluster.pushed(&user, APP, json!({ "clientId": device, "since": BEGINNING, "changes": changes })).await
    };
    for value in [1, 2, 3] {
        push("phone", value).await;
    }
    trim(cluster, &user, Duration::ZERO, 0).await;
    assert_eq!(history(cluster, &user).await, 0);
    let kept = rows(cluster, &user).await;
    assert_eq!(kept.len(), 2);
    push("phone", 2).await;
    assert_eq!(rows(cluster, &user).await.len(), 3);
    trim(cluster, &user, Duration::ZERO, 0).await;
    assert_eq!(rows(cluster, &user).await, kept);
    let pages = cluster.pull_all(&user, APP, TABLE, BEGINNING, None).await;
    let last = pages[0]["serverChanges"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["fields"]["title"]["value"], 3);
}

/// A command may trim changes younger than the replicas' own horizon: these are recognized too.
#[tokio::test]
async fn what_a_shorter_horizon_trimmed_is_recognized() {
    let cluster = shared().await;
    let user = cluster.user();
    let now = now_millis();
    let push = async |device: &str, value: i64| {
        let changes = json!([update(TABLE, "a", "title", value, &iso(now - 1_000 + value))]);
        cluster.pushed(&user, APP, json!({ "clientId": device, "since": BEGINNING, "changes": changes })).await
    };
    for value in [1, 2, 3] {
        push("phone", value).await;
    }
    trim(cluster, &user, Duration::ZERO, 30).await;
    let kept = rows(cluster, &user).await;
    assert_eq!((kept.len(), history(cluster, &user).await), (2, 1));
    push("phone", 2).await;
    assert_eq!(rows(cluster, &user).await, kept, "it was stored again");
    // Together with a new change, which is stored.
    let changes = json!([update(TABLE, "a", "title", 2, &iso(now - 998)), update(TABLE, "b", "title", 2, &iso(now))]);
    cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await;
    assert_eq!(rows(cluster, &user).await.len(), 3);
}

/// A piece trims everything in its records that is old enough, including what comes after the rows it examined. A
/// command with a short horizon is killed after it has trimmed what no replica would look for.
#[tokio::test]
async fn what_a_killed_command_trimmed_is_recognized() {
    let cluster = shared().await;
    let user = cluster.user();
    let now = now_millis();
    let push = async |value: i64| {
        let changes = json!([update(TABLE, "a", "title", value, &iso(now - 1_000 + value))]);
        cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await
    };
    for value in [1, 2, 3] {
        push(value).await;
    }
    trim(cluster, &user, Duration::ZERO, 30).await;
    let kept = rows(cluster, &user).await;
    assert_eq!((kept.len(), history(cluster, &user).await), (2, 1));
    let killed = "update sync_heads h set trimmed_to = now() - interval '8 days' where h.user_id = $1";
    sqlx::query(killed).bind(&user.id).execute(&cluster.pool).await.unwrap();
    push(2).await;
    assert_eq!(rows(cluster, &user).await, kept, "it was stored again");
    let more = json!([update(TABLE, "a", "title", 2, &iso(now - 998)), update(TABLE, "b", "title", 2, &iso(now))]);
    cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": more })).await;
    assert_eq!(rows(cluster, &user).await.len(), 3);
}

/// A change that lost a tie, was trimmed and forgotten, and is sent again does not win the tie: its device, which took
/// the winner, would be the only one to keep that.
#[tokio::test]
async fn what_lost_a_tie_does_not_win_it_later() {
    let cluster = shared().await;
    let user = cluster.user();
    let push = async |device: &str, value: &str, stamp: i64| {
        let changes = json!([update(TABLE, "a", "title", value, &at(stamp))]);
        cluster.pushed(&user, APP, json!({ "clientId": device, "since": BEGINNING, "changes": changes })).await
    };
    push("phone", "first", 0).await;
    push("phone", "A", 5).await;
    push("laptop", "B", 5).await;
    trim(cluster, &user, Duration::ZERO, 0).await;
    push("phone", "A", 5).await;
    let pages = cluster.pull_all(&user, APP, TABLE, BEGINNING, None).await;
    let last = pages[0]["serverChanges"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["fields"]["title"]["value"], "B");
}

/// A program that stores the same row with a fixed id at every start does not overwrite what was written in between.
#[tokio::test]
async fn a_programs_row_with_a_fixed_id_is_not_stored_again() {
    let cluster = shared().await;
    let user = cluster.user();
    let id = uuid::Uuid::new_v4();
    let seed = async |id: uuid::Uuid| {
        let seed = "
            insert into sync_changes (id, user_id, app_id, table_name, record_id, op, data)
            values ($1, $2, $3, $4, 'a', 'update', '{\"theme\": \"dark\"}') on conflict do nothing";
        let seed = sqlx::query(seed).bind(id).bind(&user.id).bind(APP).bind(TABLE);
        seed.execute(&cluster.pool).await.unwrap().rows_affected()
    };
    let first = json!([update(TABLE, "a", "title", "x", &at(0))]);
    cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": first })).await;
    assert_eq!((seed(id).await, seed(id).await), (1, 0));
    let edit = json!([update(TABLE, "a", "theme", "light", &iso(now_millis() + 1_000))]);
    cluster.pushed(&user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": edit })).await;
    trim(cluster, &user, Duration::ZERO, 30).await;
    let kept = rows(cluster, &user).await;
    assert_eq!((kept.len(), history(cluster, &user).await), (2, 1));
    assert_eq!(seed(id).await, 0, "it was stored and trimmed away");
    assert_eq!(rows(cluster, &user).await, kept);
    assert_eq!(seed(uuid::Uuid::new_v4()).await, 1, "another one is stored");
}
