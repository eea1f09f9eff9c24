//! Streams and sockets: every event and message is one of those described, and each of those occurs.

use crate::documents::{assert_valid, docs, schema};
use crate::support::live::{Events, Raw, TEXT, short_lived, store, store_in};
use crate::support::*;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[tokio::test]
async fn every_event_of_a_stream_is_one_of_those_described() {
    let cluster = Cluster::start_with(1, &[("SSE_HEARTBEAT_MS", "200")]).await;
    let user = cluster.user();
    store(&cluster, 0, &user, "laptop", &[("tasks", "a"), ("lists", "b")]).await;
    let path = "/sync/todo/stream?collections=tasks,lists,empty";
    let mut events = Events::open(cluster.request(&user, Method::GET, path)).await;
    let (data, cursor) = (schema("event.json"), schema("common.json#/$defs/cursor"));
    let (mut tables, mut beats) = (BTreeSet::new(), 0);
    while beats < 2 || tables.len() < 3 {
        let event = events.next().await.expect("the stream must go on");
        let json: Value = serde_json::from_str(&event.data).unwrap();
        if let Some(id) = &event.id {
            assert_valid("id", &cursor, &json!(id));
        }
        match event.event.as_str() {
            "heartbeat" => {
                assert_eq!(json, json!({}));
                beats += 1;
            }
            "changes" => {
                assert_valid("event", &data, &json);
                tables.insert(json["table"].as_str().unwrap().to_owned());
            }
            other => panic!("{other} is not described"),
        }
    }
}

#[tokio::test]
async fn every_event_of_a_stream_of_apps_names_its_app() {
    let (cluster, user) = (shared().await, shared().await.user());
    store_in(cluster, 0, &user, "todo", "laptop", &[("tasks", "a"), ("lists", "b")]).await;
    store_in(cluster, 1, &user, "calendar", "laptop", &[("events", "c")]).await;
    let path = "/sync/stream?apps=todo,calendar:events;empty";
    let mut events = Events::open(cluster.request(&user, Method::GET, path)).await;
    let described = schema("apps-event.json");
    let mut seen = BTreeSet::new();
    while seen.len() < 4 {
        let event = events.delta().await;
        assert_valid("event", &described, &event.data);
        seen.insert((event.data["appId"].to_string(), event.table().to_owned()));
    }
}

/// The server's next message; `None` once it has closed.
async fn message(raw: &mut Raw) -> Option<Value> {
    let (first, payload) = raw.frame().await?;
    (first == TEXT).then(|| serde_json::from_slice(&payload).unwrap())
}

/// The kinds of messages that a schema describes, by their titles.
fn kinds(name: &str) -> BTreeSet<String> {
    let schema: Value = serde_json::from_slice(&std::fs::read(docs().join("schemas").join(name)).unwrap()).unwrap();
    schema["oneOf"].as_array().unwrap().iter().map(|kind| kind["title"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_message_of_a_socket_is_one_of_those_described() {
    let cluster = shared().await;
    let (theirs, ours) = (schema("client-message.json"), schema("server-message.json"));
    let (mut said, mut heard) = (BTreeSet::new(), BTreeSet::new());
    let mut say = |message: &Value| {
        assert_valid("a client's message", &theirs, message);
        said.insert(message["type"].as_str().unwrap().to_owned());
        message.to_string().into_bytes()
    };
    let mut hear = |message: Option<Value>| {
        let message = message.expect("a message was due");
        assert_valid("a server's message", &ours, &message);
        heard.insert(message["type"].as_str().unwrap().to_owned());
        message
    };
    // A token valid for a few seconds: a change stored within them wakes the socket, and then the token expires.
    let user = cluster.user();
    let brief = short_lived(cluster, &user, 4);
    let mut raw = Raw::websocket(cluster.url(0), "/ws", 1 << 20).await;
    raw.send(TEXT, &say(&json!({ "type": "ping" }))).await;
    assert_eq!(hear(message(&mut raw).await)["type"], "pong");
    raw.send(TEXT, &say(&json!({ "type": "auth", "token": brief.token, "clientId": "phone" }))).await;
    assert_eq!(hear(message(&mut raw).await)["type"], "auth-ok");
    store(cluster, 1, &user, "laptop", &[("tasks", "a")]).await;
    assert_eq!(
        hear(message(&mut raw).await),
        json!({ "type": "sync-available", "appId": "todo", "tables": ["tasks"] })
    );
    assert_eq!(hear(message(&mut raw).await)["code"], "token_expired");

    let mut raw = Raw::websocket(cluster.url(0), "/ws/todo", 1 << 20).await;
    raw.send(TEXT, &say(&json!({ "type": "auth", "token": "nonsense", "clientId": null }))).await;
    assert_eq!(hear(message(&mut raw).await)["code"], "invalid_token");
    assert_eq!(said, kinds("client-message.json"));
    assert_eq!(heard, kinds("server-message.json"));
}

#[tokio::test]
async fn what_is_no_described_message_is_ignored() {
    let cluster = shared().await;
    let described = schema("client-message.json");
    let mut raw = Raw::websocket(cluster.url(0), "/ws", 1 << 20).await;
    for other in
        [json!([]), json!("ping"), json!({}), json!({ "type": "subscribe" }), json!({ "type": "auth", "token": 7 })]
    {
        assert!(!described.is_valid(&other), "{other}");
        raw.send(TEXT, other.to_string().as_bytes()).await;
    }
    raw.send(TEXT, br#"{"type":"ping"}"#).await;
    assert_eq!(message(&mut raw).await, Some(json!({ "type": "pong" })));
}
