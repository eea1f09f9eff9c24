//! `GET /sync/{appId}/stream`: what a stream sends, to the byte, and to whom. See order.rs for what it must neither
//! miss nor repeat.

use crate::support::live::*;
use crate::support::*;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

const HEARTBEAT: Duration = Duration::from_millis(400);

/// Three replicas with frequent heartbeats.
async fn cluster() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| Cluster::start_with(3, &[("SSE_HEARTBEAT_MS", "400")])).await
}

#[tokio::test]
async fn an_event_is_an_id_its_kind_and_one_line_of_data() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let title = "line\nline\r\nline\u{2028}line\u{85}\"quoted\"";
    let change = insert("tasks", "a", title, "2024-01-01T10:00:00.000Z");
    let (_, answer) = cluster.push(&user, APP, json!({ "clientId": "phone", "changes": [change] })).await;
    let cursor = answer["syncedUntil"].as_str().unwrap();

    let mut stream = Events::open(stream_of(cluster, 1, &user, "collections=tasks")).await;
    let delta = stream.delta().await;
    assert_eq!(delta.changes(), json!([change]));
    let text = &stream.text;
    let before = format!("id: {cursor}\nevent: changes\ndata: {{\"table\":\"tasks\",\"changes\":[{{\"eventId\":\"");
    let after = format!("}}],\"syncedUntil\":\"{cursor}\",\"hasMore\":false}}\n\n");
    assert!(text.starts_with(&before) && text.ends_with(&after), "{text}");
    assert_eq!(text.lines().count(), 4, "id, event, data and an empty line: {text:?}");
    assert!(!text.contains('\r'), "{text:?}");
}

#[tokio::test]
async fn an_event_without_changes_is_to_the_byte_what_clients_parse_by_hand() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let cursor = store(cluster, 0, &user, "phone", &[("lists", "a")]).await;
    let mut stream = Events::open(stream_of(cluster, 1, &user, "collections=tasks")).await;
    stream.delta().await;
    let expected = format!(
        "id: {cursor}\nevent: changes\ndata: {{\"table\":\"tasks\",\"changes\":[],\"syncedUntil\":\"{cursor}\",\"hasMore\":false}}\n\n"
    );
    assert_eq!(stream.text, expected);
}

#[tokio::test]
async fn a_quiet_stream_has_heartbeats_in_time() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let started = Instant::now();
    let mut stream = Events::open(stream_of(cluster, 0, &user, "")).await;
    for _ in 0..3 {
        let event = stream.next().await.unwrap();
        assert_eq!((event.id, event.event.as_str(), event.data.as_str()), (None, "heartbeat", "{}"));
    }
    let took = started.elapsed();
    assert!(took >= HEARTBEAT * 2, "{took:?}");
    assert_soon(cluster, HEARTBEAT * 3 + Duration::from_secs(5), "three heartbeats", took).await;
    assert_eq!(stream.text, "event: heartbeat\ndata: {}\n\n".repeat(3));
}

#[tokio::test]
async fn nothing_on_the_way_may_buffer_change_or_keep_a_stream() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let stream = Events::open(stream_of(cluster, 0, &user, "")).await;
    let header = |name| stream.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("content-type"), Some("text/event-stream"));
    assert_eq!(header("x-accel-buffering"), Some("no"));
    assert_eq!(header("cache-control"), Some("no-cache, no-store, no-transform"));
    assert_eq!(header("content-length"), None);
    assert_eq!(header("content-encoding"), None);
}

#[tokio::test]
async fn each_requested_collection_has_an_event_after_the_backlog_if_need_be_an_empty_one() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let mut fresh = Events::open(stream_of(cluster, 0, &user, "collections=a,b")).await;
    for table in ["a", "b"] {
        let delta = fresh.delta().await;
        assert_eq!((delta.table(), delta.ids().len(), delta.has_more()), (table, 0, false));
        assert_eq!(delta.until(), "1970-01-01T00:00:00.000000Z", "where there is nothing yet");
    }

    store(cluster, 0, &user, "phone", &[("b", "1"), ("b", "2")]).await;
    let newest = store(cluster, 1, &user, "phone", &[("other", "3")]).await;
    let mut stream = Events::open(stream_of(cluster, 2, &user, "collections=c,b,a,b")).await;
    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(stream.delta().await);
    }
    events.sort_by_key(|event| event.table().to_owned());
    let seen: Vec<(&str, Vec<String>)> = events.iter().map(|event| (event.table(), event.ids())).collect();
    assert_eq!(seen, [("a", vec![]), ("b", vec!["1".to_owned(), "2".to_owned()]), ("c", vec![])]);
    assert_eq!((events[0].until(), events[2].until()), (&*newest, &*newest));
    let ids: Vec<Option<&str>> = events.iter().map(|event| event.id.as_deref()).collect();
    assert_eq!(ids, [None, Some(&*newest), Some(&*newest)], "the last of the backlog, and the last of those without");
}

#[tokio::test]
async fn a_stream_brings_the_tables_it_was_asked_for_and_no_others() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    store(cluster, 0, &user, "phone", &[("a", "1"), ("b", "2"), ("c", "3")]).await;
    let mut stream = Events::open(stream_of(cluster, 1, &user, "collections=a,c")).await;
    assert_eq!(all_ids(&stream.backlog().await), ["1", "3"]);
    store(cluster, 2, &user, "phone", &[("b", "4"), ("ab", "5")]).await;
    store(cluster, 0, &user, "phone", &[("c", "6"), ("b", "7")]).await;
    assert_eq!(stream.until("6").await, ["6"]);
}

#[tokio::test]
async fn no_collections_or_empty_ones_mean_every_table() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    store(cluster, 0, &user, "phone", &[("a", "1"), ("b", "2")]).await;
    let mut streams = Vec::new();
    for query in ["", "collections=", "collections=,,"] {
        let mut stream = Events::open(stream_of(cluster, 1, &user, query)).await;
        assert_eq!(all_ids(&stream.backlog().await), ["1", "2"], "{query:?}");
        streams.push(stream);
    }
    store(cluster, 2, &user, "phone", &[("new", "3"), ("a", "4")]).await;
    for mut stream in streams {
        assert_eq!(stream.until("4").await, ["3", "4"]);
    }
}

#[tokio::test]
async fn a_page_of_alternating_tables_is_one_event_for_each() {
    const ROWS: usize = 4_000;
    let (cluster, user) = (cluster().await, cluster().await.user());
    let ids: Vec<String> = (0..ROWS).map(|n| format!("{n:04}")).collect();
    let records: Vec<(&str, &str)> = ids.iter().enumerate().map(|(n, id)| (["a", "b"][n % 2], id.as_str())).collect();
    store(cluster, 0, &user, "phone", &records).await;
    for query in ["collections=b,a", ""] {
        let events = Events::open(stream_of(cluster, 1, &user, query)).await.backlog().await;
        let tables: Vec<&str> = events.iter().map(Delta::table).collect();
        assert_eq!(tables, ["a", "b"].repeat(ROWS / 1_000), "{query:?}");
        assert_eq!(ids_by_page(&events), ids);
        let more: Vec<bool> = events.iter().map(Delta::has_more).collect();
        assert_eq!(more, [&[true; 7][..], &[false]].concat(), "as long as there is more for the reader");
    }
}

#[tokio::test]
async fn more_collections_than_256_are_refused() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let names = |count: usize| (0..count).map(|n| format!("t{n}")).collect::<Vec<_>>().join(",");
    let mut stream = Events::open(stream_of(cluster, 0, &user, &format!("collections={},,t0", names(256)))).await;
    for _ in 0..256 {
        assert!(stream.delta().await.ids().is_empty());
    }
    for count in [257, 1_000] {
        let reply = Reply::to(stream_of(cluster, 0, &user, &format!("collections={}", names(count)))).await;
        assert!(reply.refused(400, "bad_request").contains("256"));
    }
}

#[tokio::test]
async fn tables_may_have_any_names_that_a_list_with_commas_can_hold() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let names =
        ["two words", "日本語 ✓", "\"quoted\"", "a&b=c+%41#?", "back\\slash", "new\nline", "data: x", "emoji 👩‍👩‍👧"];
    for name in names {
        let device = "phone";
        store(cluster, 0, &user, device, &[(name, "backlog"), ("other", "not asked for")]).await;
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("collections", name).finish();
        let mut stream = Events::open(stream_of(cluster, 1, &user, &query)).await;
        let events = stream.backlog().await;
        assert_eq!((events[0].table(), all_ids(&events)), (name, vec!["backlog".to_owned()]));
        store(cluster, 2, &user, device, &[("other", "not asked for either"), (name, "live")]).await;
        let live = stream.delta().await;
        assert_eq!((live.table(), live.ids()), (name, vec!["live".to_owned()]));
        assert_eq!(live.data["changes"][0]["table"], name);
    }
}

#[tokio::test]
async fn a_stream_has_the_changes_of_its_user_and_app_alone() {
    let (cluster, alice, bob) = (cluster().await, cluster().await.user(), cluster().await.user());
    store(cluster, 0, &bob, "phone", &[("tasks", "bob's")]).await;
    store_in(cluster, 0, &alice, "notes", "phone", &[("tasks", "alice's note")]).await;
    let mut stream = Events::open(stream_of(cluster, 1, &alice, "")).await;
    store(cluster, 1, &bob, "phone", &[("tasks", "bob's, live")]).await;
    store_in(cluster, 1, &alice, "notes", "phone", &[("tasks", "alice's note, live")]).await;
    store(cluster, 2, &alice, "phone", &[("tasks", "alice's")]).await;
    assert_eq!(stream.until("alice's").await, ["alice's"]);
}

#[tokio::test]
async fn a_devices_own_changes_are_left_out_in_the_backlog_and_live() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let first = store(cluster, 0, &user, "laptop", &[("tasks", "1")]).await;
    store(cluster, 0, &user, "phone", &[("tasks", "own")]).await;
    store(cluster, 0, &user, "laptop", &[("tasks", "2")]).await;
    let since = |since: &str| format!("collections=tasks&since={since}");
    let request = stream_of(cluster, 1, &user, &since(&first)).header("X-Client-Id", "phone");
    let mut stream = Events::open(request).await;
    assert_eq!(all_ids(&stream.backlog().await), ["2"]);
    let mut unnamed = Events::open(stream_of(cluster, 1, &user, &since(&first))).await;
    assert_eq!(all_ids(&unnamed.backlog().await), ["own", "2"], "without a device nothing is left out");
    store(cluster, 2, &user, "phone", &[("tasks", "own, live")]).await;
    store(cluster, 0, &user, "laptop", &[("tasks", "3")]).await;
    assert_eq!(stream.until("3").await, ["3"]);
    assert_eq!(unnamed.until("3").await, ["own, live", "3"]);
}

#[tokio::test]
async fn what_a_device_stores_while_it_streams_is_not_echoed_though_its_stream_began_at_the_beginning() {
    let cluster = cluster().await;
    for before in [&[][..], &[("tasks", "lost")]] {
        let user = cluster.user();
        if !before.is_empty() {
            store(cluster, 0, &user, "phone", before).await;
        }
        let request = stream_of(cluster, 0, &user, "collections=tasks").header("X-Client-Id", "phone");
        let mut stream = Events::open(request).await;
        assert_eq!(all_ids(&stream.backlog().await).len(), before.len(), "what it had stored before comes back");
        store(cluster, 1, &user, "phone", &[("tasks", "own, live")]).await;
        store(cluster, 2, &user, "laptop", &[("tasks", "other")]).await;
        assert_eq!(stream.until("other").await, ["other"], "after {before:?}");
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let before = short_lived(cluster, &user, 4);
    let mut stream = Events::open(stream_of(cluster, 0, &before, "collections=tasks")).await;
    store(cluster, 1, &user, "phone", &[("tasks", "1")]).await;
    assert_eq!(stream.until("1").await, ["1"]);
    while let Some(event) = stream.next().await {
        assert_eq!(event.event, "heartbeat");
    }
    Reply::to(stream_of(cluster, 0, &before, "")).await.refused(401, "unauthorized");
    let mut again = Events::open(stream_of(cluster, 0, &user, "collections=tasks")).await;
    assert_eq!(all_ids(&again.backlog().await), ["1"]);
}

#[tokio::test]
async fn a_since_or_last_event_id_that_is_no_cursor_is_refused() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    for since in ["yesterday", "12", "2024-01-01", "2024-13-01T00:00:00Z", "%zz", "2024-01-01T10%253A00%253A00Z"] {
        let reply = Reply::to(stream_of(cluster, 0, &user, &format!("since={since}"))).await;
        assert!(reply.refused(400, "bad_request").contains("since"), "{since}");
        let reply = Reply::to(stream_of(cluster, 0, &user, "").header("Last-Event-ID", since)).await;
        reply.refused(400, "bad_request");
    }
    let bytes = reqwest::header::HeaderValue::from_bytes(b"\xff\xfe").unwrap();
    Reply::to(stream_of(cluster, 0, &user, "").header("Last-Event-ID", bytes)).await.refused(400, "bad_request");
}

#[tokio::test]
async fn a_name_that_cannot_be_stored_is_refused() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    for query in ["collections=a%00b".to_owned(), format!("collections=ok,{}", "x".repeat(256))] {
        Reply::to(stream_of(cluster, 0, &user, &query)).await.refused(400, "bad_request");
    }
    let request = stream_of(cluster, 0, &user, "").header("X-Client-Id", "x".repeat(256));
    Reply::to(request).await.refused(400, "bad_request");
}

#[tokio::test]
async fn a_stream_without_a_good_token_is_refused() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let path = format!("{}/sync/{APP}/stream", cluster.url(0));
    Reply::to(cluster.http.get(&path)).await.refused(401, "unauthorized");
    let expired = cluster.key.mint(&json!({ "sub": user.id, "exp": 1_000_000_000 }));
    for token in ["", "abc", &expired] {
        Reply::to(cluster.http.get(&path).bearer_auth(token)).await.refused(401, "unauthorized");
    }
}

#[tokio::test]
async fn a_stream_of_a_user_whose_sync_is_not_active_is_refused() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    cluster.credits.set_active(&user.id, false);
    let reply = Reply::to(cluster.request(&user, Method::GET, "/sync/todo/stream")).await;
    reply.refused(402, "sync_inactive");
}

#[tokio::test]
async fn updates_and_deletes_stream_in_the_form_they_were_pushed_in() {
    let (cluster, user) = (cluster().await, cluster().await.user());
    let mut stream = Events::open(stream_of(cluster, 1, &user, "collections=tasks")).await;
    stream.backlog().await;
    let changes = json!([
        update("tasks", "a", "title", "Eggs", "2024-01-01T10:05:00.000Z"),
        { "table": "tasks", "id": "a", "op": "delete", "deletedAt": "2024-01-01T10:06:00.000Z" },
    ]);
    cluster.push(&user, APP, json!({ "clientId": "phone", "changes": changes })).await;
    let mut seen: Vec<Value> = Vec::new();
    while seen.len() < 2 {
        seen.extend(stream.delta().await.changes().as_array().unwrap().clone());
    }
    assert_eq!(Value::from(seen), changes);
}
