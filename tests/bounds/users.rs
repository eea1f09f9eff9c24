//! Configured limits per user: each has its own code and metric, and says when to retry.

use crate::support::live::metric;
use crate::support::*;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

const AT: &str = "2024-01-01T10:00:00.000Z";

fn push_of(id: &str) -> Value {
    json!({ "clientId": "a", "since": live::NO_DELTA, "changes": [insert("t", id, "x", AT)] })
}

/// The code of a refusal, and the seconds after which to retry.
fn refused(reply: &Reply) -> (String, u64) {
    assert_eq!(reply.status, 429, "{reply:?}");
    let error = reply.json();
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 20), "{error}");
    (error["error"].as_str().unwrap().to_owned(), reply.header("retry-after").unwrap().parse().unwrap())
}

async fn refusals(cluster: &Cluster, limit: &str) -> f64 {
    metric(cluster, 0, &format!("mana_sync_refused_total{{limit=\"{limit}\"}}")).await
}

#[tokio::test]
async fn a_user_pushes_and_pulls_at_a_rate_and_others_are_not_concerned() {
    let settings = [("MAX_USER_PUSHES_PER_SECOND", "1"), ("MAX_USER_PULLS_PER_SECOND", "1")];
    let cluster = Cluster::start_with(1, &settings).await;
    let (user, other) = (cluster.user(), cluster.user());
    let push = |user: &User| {
        cluster.request(user, Method::POST, "/sync/todo").json(&json!({ "clientId": "a", "since": live::NO_DELTA }))
    };
    let pull =
        |user: &User| cluster.request(user, Method::GET, &format!("/sync/todo/pull?collection=t&since={BEGINNING}"));
    let stream = |user: &User| cluster.request(user, Method::GET, "/sync/todo/stream");
    for (request, code, limit) in [
        (&push as &dyn Fn(&User) -> reqwest::RequestBuilder, "too_many_pushes", "user_pushes"),
        (&pull, "too_many_pulls", "user_pulls"),
        (&stream, "too_many_pulls", "user_pulls"),
    ] {
        let mut allowed = 0;
        let (refused_with, after) = loop {
            let response = request(&user).send().await.unwrap();
            if response.status() == 429 {
                let after = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
                let error: Value = response.json().await.unwrap();
                break (error["error"].as_str().unwrap().to_owned(), after);
            }
            assert_eq!(response.status(), 200);
            allowed += 1;
            assert!(allowed < 200, "nothing is refused");
        };
        assert_eq!((refused_with.as_str(), after), (code, 1u64));
        assert!(refusals(&cluster, limit).await >= 1.0);
        assert_eq!(request(&other).send().await.unwrap().status(), 200);
    }
    let first = cluster.user();
    let begun = std::time::Instant::now();
    let answers = join_all((0..40).map(|_| Reply::to(push(&first)))).await;
    let allowed = answers.iter().filter(|reply| reply.status == 200).count();
    let most = 10 + begun.elapsed().as_secs() as usize + 1;
    assert!((10..=most).contains(&allowed), "ten at once, and one more each second: {allowed}");
}

#[tokio::test]
async fn a_user_pushes_so_many_bytes_a_day() {
    let cluster = Cluster::start_with(1, &[("MAX_USER_BYTES_PER_DAY", "100000")]).await;
    let (user, other) = (cluster.user(), cluster.user());
    let large = |id: &str| {
        let change = update("t", id, "text", "x".repeat(60_000), AT);
        json!({ "clientId": "a", "since": live::NO_DELTA, "changes": [change] }).to_string()
    };
    assert_eq!(cluster.push_raw(&user, "todo", large("1")).await.status, 200);
    let (code, after) = refused(&cluster.push_raw(&user, "todo", large("2")).await);
    assert_eq!(code, "too_many_bytes_today");
    assert!((15_000..=18_000).contains(&after), "20,000 bytes too many take a fifth of a day: {after}");
    assert_eq!(cluster.stored(&user).await, 1, "nothing of it is stored");
    assert_eq!(cluster.push(&user, "todo", push_of("3")).await.0, 200, "a small one fits");
    assert_eq!(cluster.push_raw(&other, "todo", large("1")).await.status, 200);
    assert_eq!(refusals(&cluster, "user_bytes_per_day").await, 1.0);
}

#[tokio::test]
async fn bytes_that_could_not_be_stored_do_not_count() {
    let cluster = Cluster::start_with(1, &[("MAX_USER_BYTES_PER_DAY", "100000"), ("QUEUE_TIMEOUT_MS", "2000")]).await;
    let user = cluster.user();
    let change = update("t", "1", "text", "x".repeat(60_000), AT);
    let large = json!({ "clientId": "a", "since": live::NO_DELTA, "changes": [change] }).to_string();
    cluster.pushed(&user, "todo", push_of("first")).await;
    let mut holder = cluster.pool.begin().await.unwrap();
    let lock = "select from sync_heads where user_id = $1 for update";
    sqlx::query(lock).bind(&user.id).fetch_one(&mut *holder).await.unwrap();
    for _ in 0..3 {
        cluster.push_raw(&user, "todo", large.clone()).await.refused(503, "busy");
    }
    holder.rollback().await.unwrap();
    assert_eq!(cluster.push_raw(&user, "todo", large.clone()).await.status, 200, "none of them was stored");
    assert_eq!(refused(&cluster.push_raw(&user, "todo", large).await).0, "too_many_bytes_today");
}

#[tokio::test]
async fn a_user_stores_so_many_bytes_and_can_still_delete() {
    let cluster = Cluster::start_with(1, &[("MAX_USER_BYTES_STORED", "100000")]).await;
    let user = cluster.user();
    let large = async |app: &str, id: &str| {
        let change = update("t", id, "text", "x".repeat(40_000), AT);
        let body = json!({ "clientId": "a", "since": live::NO_DELTA, "changes": [change] }).to_string();
        cluster.push_raw(&user, app, body).await
    };
    assert_eq!(large("todo", "1").await.status, 200);
    assert_eq!(large("notes", "1").await.status, 200, "of all apps together");
    let (code, _) = refused(&large("todo", "2").await);
    assert_eq!(code, "storage_full");
    assert_eq!(cluster.stored(&user).await, 2);
    let delete = json!({ "table": "t", "id": "1", "op": "delete", "deletedAt": AT });
    let push = json!({ "clientId": "a", "since": live::NO_DELTA, "changes": [delete] });
    assert_eq!(cluster.push(&user, "todo", push).await.0, 200);
    cluster.pulled(&user, "todo", "t", BEGINNING, None).await;
    assert_eq!(refusals(&cluster, "user_bytes_stored").await, 1.0);
}

#[tokio::test]
async fn a_user_who_stores_all_that_is_allowed_sends_again_what_is_stored() {
    let cluster = Cluster::start_with(1, &[("MAX_USER_BYTES_STORED", "100000")]).await;
    let user = cluster.user();
    let text = "x".repeat(60_000);
    let push = async |changes: &[&Value]| {
        let body = json!({ "clientId": "a", "since": live::NO_DELTA, "changes": changes }).to_string();
        cluster.push_raw(&user, "todo", body).await
    };
    let large = |id: &str| update("t", id, "text", text.clone(), AT);
    let (first, second, small) = (large("1"), large("2"), update("t", "3", "text", "x", AT));
    let delete = json!({ "table": "t", "id": "1", "op": "delete", "deletedAt": AT });
    assert_eq!(push(&[&first]).await.status, 200);
    // Like a client whose answers were lost and that has kept writing since.
    for _ in 0..3 {
        assert_eq!(push(&[&first]).await.status, 200, "it adds nothing");
    }
    assert_eq!(push(&[&first, &small]).await.status, 200);
    assert_eq!(push(&[&first, &small, &delete]).await.status, 200);
    assert_eq!(cluster.stored(&user).await, 3);
    assert_eq!(refused(&push(&[&first, &second]).await).0, "storage_full");
    assert_eq!(refused(&push(&[&second, &delete]).await).0, "storage_full");
    assert_eq!(cluster.stored(&user).await, 3, "nothing of it is stored");
    assert_eq!(push(&[&update("t", "4", "text", "x".repeat(30_000), AT)]).await.status, 200, "refusals take nothing");
}

#[tokio::test]
async fn pushes_at_the_same_time_do_not_store_more_than_a_user_may() {
    let cluster = Cluster::start_with(1, &[("MAX_USER_BYTES_STORED", "100000")]).await;
    let user = cluster.user();
    let apps: Vec<String> = (0..12).map(|n| format!("app-{n}")).collect();
    let push = async |app: &String| {
        let change = update("t", app, "text", "x".repeat(40_000), AT);
        let body = json!({ "clientId": "a", "since": live::NO_DELTA, "changes": [change] }).to_string();
        cluster.push_raw(&user, app, body).await
    };
    let replies = join_all(apps.iter().map(push)).await;
    let (stored, not): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert_eq!(stored.len(), 2);
    for reply in not {
        assert_eq!(refused(reply).0, "storage_full");
    }
}

#[tokio::test]
async fn a_user_has_so_many_apps_however_many_are_made_at_once() {
    let cluster = Cluster::start_with(1, &[("MAX_USER_APPS", "5")]).await;
    let (user, other) = (cluster.user(), cluster.user());
    let apps: Vec<String> = (0..20).map(|n| format!("app-{n}")).collect();
    let push = |app: &String| {
        let request = cluster.request(&user, Method::POST, &format!("/sync/{app}"));
        Reply::to(request.json(&push_of("1")))
    };
    let replies = join_all(apps.iter().map(push)).await;
    let (made, not): (Vec<_>, Vec<_>) = apps.iter().zip(&replies).partition(|(_, reply)| reply.status == 200);
    assert_eq!(made.len(), 5, "exactly as many as are allowed");
    for (_, reply) in &not {
        assert_eq!(refused(reply).0, "too_many_apps");
    }
    let heads: i64 = sqlx::query_scalar("select count(*) from sync_heads where user_id = $1")
        .bind(&user.id)
        .fetch_one(&cluster.pool)
        .await
        .unwrap();
    assert_eq!(heads, 5);
    for (app, _) in &made {
        let (status, answer) = cluster.push(&user, app, push_of("2")).await;
        assert_eq!(status, 200, "an app that is there: {answer}");
    }
    let empty = json!({ "clientId": "a", "since": BEGINNING });
    assert_eq!(cluster.push(&user, "another", empty).await.0, 200, "asking makes no app");
    assert_eq!(cluster.push(&other, "another", push_of("1")).await.0, 200);
    assert_eq!(refusals(&cluster, "user_apps").await, not.len() as f64);
    // Erasing one of the apps makes room for another.
    for table in ["sync_heads", "sync_changes"] {
        let erase = format!("delete from {table} where user_id = $1 and app_id = $2");
        sqlx::query(sqlx::AssertSqlSafe(erase)).bind(&user.id).bind(made[0].0).execute(&cluster.pool).await.unwrap();
    }
    assert_eq!(cluster.push(&user, not[0].0, push_of("1")).await.0, 200);
}

#[tokio::test]
async fn by_default_nobody_is_held_to_a_rate_and_a_user_has_256_apps() {
    let cluster = shared().await;
    let user = cluster.user();
    let apps: Vec<String> = (0..256).map(|n| format!("app-{n}")).collect();
    for apps in apps.chunks(32) {
        let pushes = apps.iter().map(|app| cluster.push(&user, app, push_of("1")));
        for (status, answer) in join_all(pushes).await {
            assert_eq!(status, 200, "{answer}");
        }
    }
    let reply = Reply::to(cluster.request(&user, Method::POST, "/sync/one-more").json(&push_of("1"))).await;
    assert_eq!(refused(&reply).0, "too_many_apps");
    let other_replica = Reply::to(cluster.request_to(1, &user, Method::POST, "/sync/one-more").json(&push_of("1")));
    assert_eq!(refused(&other_replica.await).0, "too_many_apps");
}
