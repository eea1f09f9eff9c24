//! Combinations of device and cursor, and the resulting deltas.

use super::AT;
use super::support::{self, *};
use reqwest::{Method, StatusCode};
use serde_json::json;

#[tokio::test]
async fn a_push_is_answered_with_what_other_devices_changed_oldest_first() {
    let cluster = shared().await;
    let user = cluster.user();
    let changes = [insert("todos", "a", "Milk", AT), update("lists", "b", "name", "Shop", AT)];
    let (status, first) = cluster.push(&user, "todo", json!({ "clientId": "phone", "changes": changes })).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(first["serverChanges"], json!([]));
    assert_eq!(first["conflicts"], json!([]));
    assert_eq!(first["hasMore"], json!(false));

    let (_, delta) =
        cluster.push_to(1, &user, "todo", json!({ "clientId": "laptop", "since": "", "changes": [] })).await;
    assert_eq!(support::changes(&delta), json!(changes));
    assert_eq!(delta["syncedUntil"], first["syncedUntil"]);
}

#[tokio::test]
async fn an_answer_has_the_four_documented_members_and_no_others() {
    let cluster = shared().await;
    let answer = cluster.pushed(&cluster.user(), "todo", json!({ "clientId": "phone" })).await;
    let beginning = "1970-01-01T00:00:00.000000Z";
    let expected = json!({ "serverChanges": [], "conflicts": [], "syncedUntil": beginning, "hasMore": false });
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn the_header_x_client_id_wins_over_the_body() {
    let cluster = shared().await;
    let user = cluster.user();
    let body = json!({ "clientId": "body", "changes": [insert("todos", "a", "Milk", AT)] });
    let request = cluster.request(&user, Method::POST, "/sync/todo").header("Content-Type", "application/json");
    let reply = Reply::to(request.header("X-Client-Id", "header").body(body.to_string())).await;
    assert_eq!(reply.status, StatusCode::OK);
    let clients: Vec<String> = sqlx::query_scalar("select client_id from sync_changes where user_id = $1")
        .bind(&user.id)
        .fetch_all(&cluster.pool)
        .await
        .unwrap();
    assert_eq!(clients, ["header"]);
}

#[tokio::test]
async fn a_push_from_no_device_is_refused() {
    let cluster = shared().await;
    let user = cluster.user();
    for client in [json!({}), json!({ "clientId": "" }), json!({ "clientId": null })] {
        let mut body = client;
        body["changes"] = json!([insert("todos", "a", "Milk", AT)]);
        let message = cluster.push_raw(&user, "todo", body.to_string()).await.refused(400, "bad_request");
        assert!(message.contains("X-Client-Id") && message.contains("clientId"), "{message}");
    }
    assert_eq!(cluster.stored(&user).await, 0);
}

#[tokio::test]
async fn since_missing_empty_null_or_the_epoch_means_from_the_beginning() {
    let cluster = shared().await;
    let user = cluster.user();
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", AT)] })).await;
    let mut bodies = vec![json!({ "clientId": "laptop" })];
    for since in [json!(""), json!(null), json!(BEGINNING), json!("1970-01-01T01:00:00+01:00")] {
        bodies.push(json!({ "clientId": "laptop", "since": since, "changes": [] }));
    }
    for body in bodies {
        assert_eq!(ids(&cluster.pushed(&user, "todo", body.clone()).await), ["a"], "{body}");
    }
}

#[tokio::test]
async fn a_since_that_is_no_rfc_3339_time_is_refused_and_stores_nothing() {
    let cluster = shared().await;
    let user = cluster.user();
    for since in ["now", "2024-01-01", "2024-01-01T10:00:00", "1704103200000", " ", "2024-13-01T00:00:00Z"] {
        let body = json!({ "clientId": "phone", "since": since, "changes": [insert("todos", "a", "Milk", AT)] });
        let message = cluster.push_raw(&user, "todo", body.to_string()).await.refused(400, "bad_request");
        assert!(message.contains("since"), "{since}: {message}");
    }
    assert_eq!(cluster.stored(&user).await, 0);
}

#[tokio::test]
async fn a_push_without_changes_is_a_pure_delta_request() {
    let cluster = shared().await;
    let user = cluster.user();
    let pushed =
        cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", AT)] }));
    let pushed = pushed.await;
    for changes in [json!([]), json!(null)] {
        let body = json!({ "clientId": "laptop", "since": until(&pushed), "changes": changes });
        let delta = cluster.pushed(&user, "todo", body).await;
        assert_eq!(delta["serverChanges"], json!([]));
        assert_eq!(until(&delta), until(&pushed));
    }
    assert_eq!(cluster.stored(&user).await, 1);
}

#[tokio::test]
async fn a_device_is_not_sent_its_own_changes() {
    let cluster = shared().await;
    let user = cluster.user();
    let push = async |client: &str, id: &str, since: &str| {
        let body = json!({ "clientId": client, "since": since, "changes": [insert("todos", id, "Milk", AT)] });
        cluster.pushed(&user, "todo", body).await
    };
    let first = push("phone", "a", "").await;
    push("laptop", "b", until(&first)).await;
    push("phone", "c", until(&first)).await;
    let delta = push("phone", "d", until(&first)).await;
    assert_eq!(ids(&delta), ["b"]);
}

#[tokio::test]
async fn from_the_beginning_a_device_gets_back_what_it_stored_before_this_push_and_not_this_push() {
    let cluster = shared().await;
    let user = cluster.user();
    let push = async |client: &str, id: &str, since: &str| {
        let body = json!({ "clientId": client, "since": since, "changes": [insert("todos", id, "Milk", AT)] });
        cluster.pushed(&user, "todo", body).await
    };
    push("phone", "a", "").await;
    push("laptop", "b", "").await;
    for since in ["", BEGINNING, "1970-01-01T00:00:00Z", "1969-12-31T23:00:00-01:00"] {
        let delta = push("phone", "c", since).await;
        assert_eq!(ids(&delta)[..2], ["a", "b"], "{since}");
        assert!(!ids(&delta)[2..].contains(&"d"));
    }
    let delta = push("phone", "d", "").await;
    assert!(!ids(&delta).contains(&"d"), "{delta}");
}

#[tokio::test]
async fn other_users_and_other_apps_are_never_seen() {
    let cluster = shared().await;
    let (user, other) = (cluster.user(), cluster.user());
    let push = async |user: &User, app: &str, id: &str| {
        let body = json!({ "clientId": "phone", "changes": [insert("todos", id, "Milk", AT)] });
        cluster.pushed(user, app, body).await
    };
    push(&user, "todo", "mine").await;
    push(&user, "notes", "other-app").await;
    push(&other, "todo", "other-user").await;
    for client in ["phone", "laptop"] {
        let delta = cluster.pushed(&user, "todo", json!({ "clientId": client, "since": "" })).await;
        assert_eq!(ids(&delta), ["mine"]);
        assert_eq!(ids(&cluster.pulled(&user, "todo", "todos", BEGINNING, Some(client)).await), ["mine"]);
    }
}

#[tokio::test]
async fn an_app_id_may_be_any_text_and_is_its_own_log() {
    let cluster = shared().await;
    let user = cluster.user();
    let apps = ["todo", "to%20do", "to%2Fdo", "%F0%9F%8D%8E", "TODO"];
    for (index, app) in apps.iter().enumerate() {
        let change = insert("todos", &index.to_string(), "Milk", AT);
        cluster.pushed(&user, app, json!({ "clientId": "phone", "changes": [change] })).await;
    }
    for (index, app) in apps.iter().enumerate() {
        let delta = cluster.pushed(&user, app, json!({ "clientId": "laptop" })).await;
        assert_eq!(ids(&delta), [index.to_string()], "{app}");
    }
}
