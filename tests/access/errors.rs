//! The form of errors, and the responses to clients while the database is down.

use crate::support::*;
use futures_util::future::join_all;
use mana_dev::{Shutdown, TemporaryPostgres};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

const AT: &str = "2024-01-01T10:05:00.000Z";

#[tokio::test]
async fn what_is_not_there_is_404_in_the_form_of_all_errors() {
    let cluster = shared().await;
    let user = cluster.user();
    for path in
        ["/", "/sync", "/sync/", "/sync/todo/", "/sync/todo/push", "/sync/todo/pull/x", "/healthz", "/sync/%FF/pull"]
    {
        let reply = Reply::to(cluster.request(&user, Method::GET, path)).await;
        reply.refused(404, "not_found");
    }
}

#[tokio::test]
async fn another_method_is_405_in_the_form_of_all_errors_and_says_which_are_allowed() {
    let cluster = shared().await;
    let user = cluster.user();
    for (method, path, allowed) in [
        (Method::GET, "/sync/todo", "POST"),
        (Method::PUT, "/sync/todo", "POST"),
        (Method::DELETE, "/sync/todo/pull", "GET"),
        (Method::POST, "/sync/todo/stream", "GET"),
        (Method::POST, "/health", "GET"),
        (Method::POST, "/ws", "GET"),
    ] {
        let reply = Reply::to(cluster.request(&user, method.clone(), path)).await;
        reply.refused(405, "method_not_allowed");
        let allow = reply.header("allow").unwrap_or_default();
        assert!([allowed, "OPTIONS"].iter().all(|method| allow.contains(method)), "{method} {path}: {reply:?}");
    }
}

/// Read as another name, it would seem to be an empty table.
#[tokio::test]
async fn a_parameter_that_is_not_utf_8_is_refused() {
    let cluster = shared().await;
    let user = cluster.user();
    for (query, parameter) in [
        ("pull?collection=%ff&since=1970-01-01T00:00:00Z", "collection"),
        ("pull?collection=todos&since=%c3", "since"),
        ("stream?collections=a,%80b", "collections"),
        ("stream?since=%ed%a0%80", "since"),
    ] {
        let request = cluster.request(&user, Method::GET, &format!("/sync/todo/{query}"));
        let message = Reply::to(request).await.refused(400, "bad_request");
        assert!(message.contains(&format!("the parameter {parameter} must be UTF-8")), "{query}: {message}");
    }
    let request = cluster.request(&user, Method::GET, "/sync/stream?apps=%ff");
    assert!(Reply::to(request).await.refused(400, "bad_request").contains("apps must be UTF-8"));
    // Neither do other parameters matter, nor other ways to write one.
    let path = format!("/sync/todo/pull?%ff=1&&=&coll%65ction=%c3%bc+%2B&collection=%ff&since={BEGINNING}");
    let table = json!({ "clientId": "phone", "changes": [insert("ü +", "a", "Milk", "2024-01-01T10:00:00.000Z")] });
    cluster.pushed(&user, "todo", table).await;
    let page = Reply::to(cluster.request(&user, Method::GET, &path)).await;
    assert_eq!((page.status, ids(&page.json())), (StatusCode::OK, vec!["a"]), "{page:?}");
}

#[tokio::test]
async fn a_request_that_is_no_websocket_is_told_so() {
    let cluster = shared().await;
    for path in ["/ws", "/ws/todo"] {
        cluster.get(path).await.refused(426, "upgrade_required");
    }
}

#[tokio::test]
async fn an_error_says_what_to_do_in_every_case() {
    let cluster = shared().await;
    let user = cluster.user();
    let nobody = cluster.get("/sync/todo/pull?collection=todos").await.refused(401, "unauthorized");
    assert!(nobody.contains("Authorization: Bearer"), "{nobody}");
    let header = reqwest::header::HeaderValue::from_bytes(b"\xfc").unwrap();
    let path = format!("/sync/todo/pull?collection=todos&since={BEGINNING}");
    let request = cluster.request(&user, Method::GET, &path).header("X-Client-Id", header);
    let message = Reply::to(request).await.refused(400, "bad_request");
    assert!(message.contains("X-Client-Id"), "{message}");
}

/// Sends each kind of request that needs the database, once.
async fn ask_everything(cluster: &Cluster, user: &User) -> [(&'static str, Reply); 4] {
    let push = json!({ "clientId": "phone", "since": AT, "changes": [insert("todos", "a", "Milk", AT)] }).to_string();
    let get = async |path: String| Reply::to(cluster.request(user, Method::GET, &path)).await;
    let (pushed, empty, pulled, streamed) = tokio::join!(
        cluster.push_raw(user, "todo", push),
        cluster.push_raw(user, "todo", r#"{"clientId":"phone"}"#),
        get(format!("/sync/todo/pull?collection=todos&since={BEGINNING}")),
        stream(cluster, user),
    );
    [("push", pushed), ("empty push", empty), ("pull", pulled), ("stream", streamed)]
}

/// Returns a stream's response. An open stream stays open, and retries what it cannot read.
async fn stream(cluster: &Cluster, user: &User) -> Reply {
    let response = cluster.request(user, Method::GET, "/sync/todo/stream").send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let text = if status == StatusCode::OK { String::new() } else { response.text().await.unwrap() };
    Reply { status, headers, text }
}

/// Pushes of many users at once, which take as many database connections as on a busy replica.
async fn push_all(cluster: &Cluster, users: &[User]) -> Vec<StatusCode> {
    let since = iso(now_millis());
    // A different change each time: the same one would be stored only once.
    let body = json!({ "clientId": "phone", "since": since, "changes": [insert("todos", "a", &since, AT)] });
    join_all(users.iter().map(async |user| cluster.push(user, "todo", body.clone()).await.0)).await
}

#[tokio::test]
async fn while_the_database_is_away_the_answer_is_503_with_retry_after_and_afterwards_all_is_well() {
    let mut postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    // As long as a busy machine takes for forty connections; each request waits as long for a database that is away.
    let settings = [("DATABASE_ACQUIRE_TIMEOUT_MS", "5000"), ("READY_GRACE_MS", "0")];
    let cluster = Cluster::start_on(&postgres.server().admin_url(), 1, &settings).await;
    let user = cluster.user();
    let users: Vec<User> = (0..40).map(|_| cluster.user()).collect();
    assert_eq!(push_all(&cluster, &users).await, [StatusCode::OK; 40]);

    postgres.server_mut().kill().await.unwrap();
    for (what, reply) in ask_everything(&cluster, &user).await {
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{what}: {reply:?}");
        let retry_after: u32 =
            reply.header("retry-after").unwrap_or_else(|| panic!("{what}: {reply:?}")).parse().unwrap();
        assert!(retry_after >= 1);
        let message = reply.refused(503, "unavailable").to_lowercase();
        for internal in ["sql", "postgres", "relation", "pool", "database", "connection refused", "127.0.0.1"] {
            assert!(!message.contains(internal), "{what} tells of {internal}: {message}");
        }
    }
    eventually("not ready", async || cluster.get("/health/ready").await.status == 503).await;
    let message = cluster.get("/health/ready").await.refused(503, "not_ready");
    assert!(message.contains("the database does not answer"), "{message}");
    assert!(message.contains("the listener is not connected"), "{message}");

    postgres.server_mut().restart(Shutdown::Fast).await.unwrap();
    eventually("ready again", async || cluster.get("/health/ready").await.status == 200).await;
    assert_eq!(push_all(&cluster, &users).await, [StatusCode::OK; 40]);
    assert_eq!(ids(&cluster.pulled(&users[0], "todo", "todos", BEGINNING, None).await), ["a", "a"]);
}

#[tokio::test]
async fn requests_that_come_after_the_database_has_returned_notice_nothing() {
    let mut postgres = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
    let cluster = Cluster::start_on(&postgres.server().admin_url(), 1, &[]).await;
    let users: Vec<User> = (0..40).map(|_| cluster.user()).collect();
    assert_eq!(push_all(&cluster, &users).await, [StatusCode::OK; 40]);
    // Every pool connection is cut while idle.
    postgres.server_mut().restart(Shutdown::Immediate).await.unwrap();
    assert_eq!(push_all(&cluster, &users).await, [StatusCode::OK; 40]);
    postgres.server_mut().restart(Shutdown::Fast).await.unwrap();
    let pulls = join_all(users.iter().map(|user| cluster.pull(user, "todo", "todos", BEGINNING, None))).await;
    for (status, answer) in &pulls {
        assert_eq!((*status, ids(answer)), (StatusCode::OK, vec!["a", "a"]));
    }
}

#[tokio::test]
async fn a_push_while_the_database_refuses_to_write_is_503_and_stored_when_it_is_retried() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&cluster.pool).await.unwrap();
    let set = async |read_only: bool| {
        let statement = format!("alter database {name} set default_transaction_read_only = {read_only}");
        let escape = "set transaction read write";
        let mut transaction = cluster.pool.begin().await.unwrap();
        sqlx::query(escape).execute(&mut *transaction).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        // The limit applies to new connections only.
        let others = "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()";
        sqlx::query(others).execute(&cluster.pool).await.unwrap();
    };
    let push = json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", AT)] }).to_string();
    set(true).await;
    eventually("read-only", async || {
        let reply = cluster.push_raw(&user, "todo", push.clone()).await;
        assert!(!reply.text.contains("read-only"), "{reply:?}");
        reply.status == 503 && reply.header("retry-after").is_some()
    })
    .await;
    set(false).await;
    eventually("stored", async || cluster.push_raw(&user, "todo", push.clone()).await.status == 200).await;
    assert_eq!(cluster.stored(&user).await, 1);
}

#[tokio::test]
async fn a_fault_of_the_server_tells_nothing_of_its_inside() {
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    sqlx::query("drop table sync_changes").execute(&cluster.pool).await.unwrap();
    for (what, reply) in ask_everything(&cluster, &user).await {
        if what == "stream" && reply.status == StatusCode::OK {
            continue;
        }
        let text = reply.text.to_lowercase();
        assert!(reply.status.is_server_error(), "{what}: {reply:?}");
        for internal in ["sql", "postgres", "relation", "sync_changes", "42p01", "panicked"] {
            assert!(!text.contains(internal), "{what} tells of {internal}: {text}");
        }
    }
}

/// A log that cannot be read, and a client that asks for it without a pause.
#[tokio::test]
async fn what_fails_again_and_again_is_logged_at_most_once_a_second() {
    let cluster = Cluster::start_with(1, &[]).await;
    let user = cluster.user();
    let push = json!({ "clientId": "a", "since": live::NO_DELTA, "changes": [insert("t", "1", "x", AT)] });
    cluster.pushed(&user, "todo", push).await;
    let breaking = sqlx::query("update sync_changes set data = '[1]' where user_id = $1").bind(&user.id);
    breaking.execute(&cluster.pool).await.unwrap();
    let begun = Instant::now();
    let pulls = join_all((0..40).map(|_| cluster.pull(&user, "todo", "t", BEGINNING, None))).await;
    let statuses: Vec<u16> = pulls.iter().map(|(status, _)| status.as_u16()).collect();
    assert!(statuses.iter().all(|status| *status == 500), "{statuses:?}");
    let seconds = begun.elapsed().as_secs() as usize + 1;
    let log = cluster.nodes[0].log();
    let lines = log.lines().filter(|line| line.contains("a request failed")).count();
    assert!((1..=seconds).contains(&lines), "{lines} lines in {seconds} s");
}
