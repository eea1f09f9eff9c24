//! The admin port: any replica answers for all, and does what operators tell it, everywhere.

mod support;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use support::live::{APP, Events, closed, socket, store, stream_of};
use support::*;

const TOKEN: &str = "an-admin-token-for-tests";
/// A stream of these tables has an event for each, empty as they are.
const COLLECTIONS: &str = "collections=tasks,lists";
const AT: &str = "2024-01-01T10:05:00.000Z";

/// A cluster whose replicas all have an admin port.
struct Administered {
    cluster: Cluster,
    /// Base URLs of the admin ports.
    admin: Vec<String>,
}

async fn administered(replicas: u16, settings: &[(&str, &str)]) -> Administered {
    let admin = [("ADMIN_PORT", "0"), ("ADMIN_TOKEN", TOKEN)];
    let cluster = Cluster::start_with(replicas, &[&admin, settings].concat()).await;
    let admin = (0..replicas.into()).map(|index| admin_url(&cluster, index)).collect();
    Administered { cluster, admin }
}

/// Where a replica's admin port is, as its log says: of its last life.
fn admin_url(cluster: &Cluster, index: usize) -> String {
    let log = cluster.nodes[index].log();
    let line = log.lines().rev().find(|line| line.contains("the admin port is open")).expect("it has one");
    let line: Value = serde_json::from_str(line).unwrap();
    format!("http://{}", line["address"].as_str().unwrap())
}

impl Administered {
    fn request(&self, index: usize, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v1/{path}", self.admin[index]);
        self.cluster.http.request(method, url).bearer_auth(TOKEN).timeout(TIMEOUT)
    }

    async fn get(&self, index: usize, path: &str) -> Value {
        let (status, answer) = answer(self.request(index, Method::GET, path)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    async fn post(&self, index: usize, path: &str, body: Value) -> Reply {
        let request = self.request(index, Method::POST, path).header("Content-Type", "application/json");
        Reply::to(request.body(body.to_string())).await
    }

    /// An action that must be done; its outcomes by replica.
    async fn act(&self, index: usize, path: &str, body: Value) -> Vec<(String, String)> {
        let reply = self.post(index, path, body).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        let answer = reply.json();
        assert_eq!((&answer["silent"], &answer["problem"]), (&json!([]), &Value::Null), "{answer}");
        let outcome = |outcome: &Value| {
            assert_eq!(outcome["done"], true, "{outcome}");
            let text = |name: &str| outcome[name].as_str().unwrap().to_owned();
            (text("replica"), text("message"))
        };
        let mut outcomes: Vec<_> = answer["outcomes"].as_array().unwrap().iter().map(outcome).collect();
        outcomes.sort();
        outcomes
    }

    async fn user(&self, index: usize, user: &User) -> Value {
        self.get(index, &format!("user?id={}", user.id)).await
    }

    /// Waits until all replicas know each other.
    async fn acquainted(&self) {
        for index in 0..self.admin.len() {
            eventually("they know each other", async || {
                names(&self.get(index, "cluster").await["replicas"]).len() == self.admin.len()
            })
            .await;
        }
    }
}

fn names(replicas: &Value) -> Vec<String> {
    let mut names: Vec<String> =
        replicas.as_array().unwrap().iter().map(|replica| replica["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// The user with a token that has an id.
fn with_token_id(cluster: &Cluster, user: &User, token_id: &Value) -> User {
    let expires = now_millis() / 1000 + 3600;
    let token = cluster.key.mint(&json!({ "sub": user.id, "exp": expires, "jti": token_id }));
    User { id: user.id.clone(), token }
}

#[tokio::test]
async fn any_replica_answers_for_all() {
    let it = administered(3, &[]).await;
    it.acquainted().await;
    let user = it.cluster.user();
    let _first = socket(&it.cluster, 0, &user, None, None).await;
    let _second = socket(&it.cluster, 1, &user, Some(APP), Some("laptop")).await;
    let mut stream = Events::open(stream_of(&it.cluster, 2, &user, COLLECTIONS).header("X-Client-Id", "phone")).await;
    stream.backlog().await;
    store(&it.cluster, 0, &user, "laptop", &[("tasks", "a")]).await;
    stream.until("a").await;
    for asked in 0..3 {
        let cluster = it.get(asked, "cluster").await;
        assert_eq!(names(&cluster["replicas"]), ["replica-1", "replica-2", "replica-3"], "{cluster}");
        assert_eq!((&cluster["silent"], &cluster["problem"]), (&json!([]), &Value::Null));
        let own = &cluster["replicas"][0];
        assert_eq!(own["name"], format!("replica-{}", asked + 1), "the one that was asked comes first");
        assert_eq!(own["answerSeconds"], Value::Null);
        for replica in cluster["replicas"].as_array().unwrap() {
            assert_eq!((&replica["ready"], &replica["listener"]["up"]), (&json!(true), &json!(true)), "{replica}");
            assert_eq!(replica["version"], env!("CARGO_PKG_VERSION"));
            let open = replica["connections"]["websockets"].as_i64().unwrap()
                + replica["connections"]["streams"].as_i64().unwrap();
            assert_eq!(open, 1, "{replica}");
            assert!(replica["process"]["memoryBytes"].as_u64().unwrap() > 1 << 20, "{replica}");
            assert!(replica["startedAt"].as_str().unwrap() < cluster["at"].as_str().unwrap());
        }
        assert!(cluster["replicas"][1]["answerSeconds"].as_f64().unwrap() < 1.0);
        assert!(cluster["database"]["bytes"].as_i64().unwrap() > 1 << 20, "{cluster}");
        eventually("pushes are counted", async || {
            let load = it.get(asked, "load").await;
            let seconds =
                load["replicas"].as_array().unwrap().iter().flat_map(|replica| replica["seconds"].as_array().unwrap());
            seconds.map(|second| second["pushes"].as_f64().unwrap()).sum::<f64>() > 0.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_user_is_shown_with_sessions_logs_and_devices() {
    let it = administered(2, &[]).await;
    it.acquainted().await;
    let user = with_token_id(&it.cluster, &it.cluster.user(), &json!("token-7"));
    let mut phone = socket(&it.cluster, 0, &user, Some(APP), Some("phone")).await;
    let mut stream = Events::open(stream_of(&it.cluster, 1, &user, COLLECTIONS).header("X-Client-Id", "tablet")).await;
    stream.backlog().await;
    let head = store(&it.cluster, 0, &user, "laptop", &[("tasks", "a"), ("lists", "b")]).await;
    stream.until("b").await;
    support::live::woken(&mut phone).await;
    it.cluster.pulled(&user, APP, "tasks", &head, Some("phone")).await;
    let shown = it.user(1, &user).await;
    assert_eq!((&shown["userId"], &shown["sessionsTotal"]), (&json!(user.id), &json!(2)), "{shown}");
    assert_eq!(
        shown["logs"],
        json!([{ "app": APP, "head": head, "changes": 2, "bytes": shown["usage"]["bytes"], "tables": 2 }])
    );
    assert_eq!((&shown["usage"]["apps"], &shown["usage"]["changes"]), (&json!(1), &json!(2)));
    let session = |transport: &str| {
        let all = shown["sessions"].as_array().unwrap();
        all.iter().find(|session| session["transport"] == transport).unwrap_or_else(|| panic!("{shown}")).clone()
    };
    let (socket, stream) = (session("websocket"), session("sse"));
    assert_eq!(
        (&socket["replica"], &socket["device"], &socket["app"]),
        (&json!("replica-1"), &json!("phone"), &json!(APP))
    );
    assert_eq!((&stream["replica"], &stream["device"]), (&json!("replica-2"), &json!("tablet")));
    assert_eq!((&socket["tokenId"], &stream["tokenId"]), (&json!("token-7"), &json!("token-7")));
    assert!(socket["wokenAt"].is_string() && stream["wokenAt"].is_string(), "{shown}");
    assert_eq!((&socket["readUntil"], &stream["readUntil"]), (&Value::Null, &json!(head)));
    let device = |name: &str| {
        let all = shown["devices"].as_array().unwrap();
        all.iter().find(|device| device["device"] == name).unwrap_or_else(|| panic!("{shown}")).clone()
    };
    assert_eq!((&device("laptop")["changes"], &device("laptop")["pushedAt"]), (&json!(2), &json!(head)));
    assert_eq!((&device("phone")["readUntil"], &device("phone")["sessions"]), (&json!(head), &json!(1)));
    assert_eq!((&device("tablet")["readUntil"], &device("tablet")["pushedAt"]), (&json!(head), &Value::Null));

    let nobody = it.user(0, &it.cluster.user()).await;
    assert_eq!((&nobody["sessionsTotal"], &nobody["logs"], &nobody["devices"]), (&json!(0), &json!([]), &json!([])));
}

#[tokio::test]
async fn a_user_with_many_sessions_is_listed_in_part_and_counted_whole() {
    let it = administered(2, &[("MAX_SESSIONS_PER_USER", "1000")]).await;
    it.acquainted().await;
    let user = it.cluster.user();
    let mut sockets = Vec::new();
    for n in 0..400 {
        sockets.push(socket(&it.cluster, n, &user, Some(APP), Some(&format!("device-{n}"))).await);
    }
    let listed = |shown: &Value| shown["sessions"].as_array().unwrap().len();
    let shown = it.user(0, &user).await;
    assert_eq!((listed(&shown), &shown["sessionsTotal"]), (200, &json!(400)));
    let all = it.get(1, &format!("user?id={}&sessions=2000", user.id)).await;
    assert_eq!((listed(&all), &all["sessionsTotal"]), (400, &json!(400)));
    let none = it.get(1, &format!("user?id={}&sessions=0", user.id)).await;
    assert_eq!((listed(&none), &none["sessionsTotal"]), (0, &json!(400)));
    let outcomes = it.act(0, "disconnect", json!({ "userId": user.id, "device": "device-7" })).await;
    let ended: Vec<&str> = outcomes.iter().map(|(_, message)| message.as_str()).collect();
    assert_eq!(ended, ["0 sessions were ended", "1 session was ended"]);
    it.act(0, "disconnect", json!({ "userId": user.id })).await;
    eventually("all have gone", async || it.user(0, &user).await["sessionsTotal"] == 0).await;
}

#[tokio::test]
async fn a_record_is_explained() {
    let it = administered(1, &[]).await;
    let user = it.cluster.user();
    let push = async |device: &str, change: Value| {
        it.cluster.pushed(&user, APP, json!({ "clientId": device, "changes": [change] })).await;
    };
    push("phone", insert("tasks", "a/b c", "Milk", "2024-01-01T10:00:00.000Z")).await;
    push("laptop", update("tasks", "a/b c", "title", "Eggs", "2024-01-01T10:05:00.000Z")).await;
    push("phone", update("tasks", "a/b c", "title", "Late but older", "2024-01-01T10:04:00.000Z")).await;
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("user", user.id.as_str()), ("app", APP), ("table", "tasks"), ("id", "a/b c")])
        .finish();
    let record = it.get(0, &format!("record?{query}")).await;
    let title = record["fields"].as_array().unwrap().iter().find(|field| field["name"] == "title").unwrap().clone();
    assert_eq!((&title["value"], &title["device"]), (&json!("Eggs"), &json!("laptop")), "{record}");
    let wins: Vec<bool> = record["history"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|change| change["writes"].as_array().unwrap())
        .filter(|write| write["field"] == "title")
        .map(|write| write["wins"].as_bool().unwrap())
        .collect();
    assert_eq!(wins, [false, true, false]);
    let missing = Reply::to(it.request(0, Method::GET, &format!("record?{}x", query))).await;
    missing.refused(404, "not_found");
    for parameter in ["user", "app", "table", "id"] {
        let without = query.replace(&format!("{parameter}="), "other=");
        let message =
            Reply::to(it.request(0, Method::GET, &format!("record?{without}"))).await.refused(400, "bad_request");
        assert!(message.contains(parameter), "{message}");
    }
}

#[tokio::test]
async fn a_user_or_a_device_is_disconnected_everywhere_and_may_come_back() {
    let it = administered(2, &[]).await;
    it.acquainted().await;
    let (alice, bob) = (it.cluster.user(), it.cluster.user());
    let mut phone = socket(&it.cluster, 0, &alice, None, Some("phone")).await;
    let mut laptop = socket(&it.cluster, 1, &alice, None, Some("laptop")).await;
    let mut stream = Events::open(stream_of(&it.cluster, 1, &alice, COLLECTIONS).header("X-Client-Id", "phone")).await;
    stream.backlog().await;
    let mut other = socket(&it.cluster, 1, &bob, None, Some("phone")).await;
    let outcomes = it.act(1, "disconnect", json!({ "userId": alice.id, "device": "phone" })).await;
    assert_eq!(outcomes.len(), 2);
    assert_eq!(closed(&mut phone).await, Some(1012));
    while stream.next().await.is_some() {}
    assert!(stream.text.ends_with("retry: 1000\n\n"), "{}", stream.text);
    eventually("one session is left", async || it.user(0, &alice).await["sessionsTotal"] == 1).await;
    let mut phone = socket(&it.cluster, 1, &alice, None, Some("phone")).await;
    it.act(0, "disconnect", json!({ "userId": alice.id })).await;
    assert_eq!((closed(&mut phone).await, closed(&mut laptop).await), (Some(1012), Some(1012)));
    store(&it.cluster, 0, &bob, "laptop", &[("tasks", "a")]).await;
    support::live::woken(&mut other).await;
    let log = it.cluster.nodes[0].log();
    assert!(log.contains("an operator acts") && log.contains("\"disconnect_user\""), "{log}");
    assert!(!log.contains(&alice.id) && !log.contains(TOKEN), "logs say neither who a user is nor a secret");
}

#[tokio::test]
async fn a_refused_token_is_refused_everywhere_also_by_replicas_that_start_later() {
    let mut it = administered(2, &[]).await;
    it.acquainted().await;
    let user = it.cluster.user();
    let (lost, kept) =
        (with_token_id(&it.cluster, &user, &json!("lost")), with_token_id(&it.cluster, &user, &json!("kept")));
    let numbered = with_token_id(&it.cluster, &user, &json!(7));
    let mut phone = socket(&it.cluster, 0, &lost, None, None).await;
    let mut stream = Events::open(stream_of(&it.cluster, 1, &lost, COLLECTIONS)).await;
    stream.backlog().await;
    let _laptop = socket(&it.cluster, 1, &kept, None, None).await;
    let until = iso(now_millis() + 3_600_000);
    it.act(1, "refused-tokens", json!({ "tokenId": "lost", "until": until })).await;
    let mana_load::wakeups::WakeMessage::Error { code, .. } = phone.next(TIMEOUT).await.unwrap() else {
        panic!("it says why")
    };
    assert_eq!(code, "invalid_token");
    assert_eq!(closed(&mut phone).await, Some(1008));
    while stream.next().await.is_some() {}
    let refused = async |index: usize| {
        let body = json!({ "clientId": "phone", "changes": [] });
        let (status, answer) = it.cluster.push_to(index, &lost, APP, body).await;
        (status.as_u16(), answer["message"].as_str().unwrap_or_default().contains("refused by an operator"))
    };
    assert_eq!((refused(0).await, refused(1).await), ((401, true), (401, true)));
    for index in 0..2 {
        for token in [&kept, &numbered] {
            it.cluster.pushed_to(index, token, APP, json!({ "clientId": "laptop", "changes": [] })).await;
        }
        let tokens = it.get(index, "refused-tokens").await;
        assert_eq!(tokens, json!({ "refusedTokens": [{ "tokenId": "lost", "until": until }] }));
    }
    assert_eq!(it.user(0, &user).await["sessionsTotal"], 1);
    it.cluster.nodes[0].process.terminate(TIMEOUT).await.unwrap();
    it.cluster.nodes[0].restart().await;
    it.admin[0] = admin_url(&it.cluster, 0);
    let body = json!({ "clientId": "phone", "changes": [] });
    eventually("the new one refuses it too", async || {
        it.cluster.push_to(0, &lost, APP, body.clone()).await.0 == StatusCode::UNAUTHORIZED
    })
    .await;
}

#[tokio::test]
async fn a_replica_is_drained_and_taken_back() {
    let it = administered(2, &[("DRAIN_WINDOW_MS", "300")]).await;
    it.acquainted().await;
    let user = it.cluster.user();
    let mut leaves = socket(&it.cluster, 1, &user, None, None).await;
    let mut stays = socket(&it.cluster, 0, &user, None, None).await;
    let outcomes = it.act(0, "drain", json!({ "replica": "replica-2", "drained": true })).await;
    assert_eq!(outcomes.len(), 1);
    assert_eq!(closed(&mut leaves).await, Some(1012));
    let ready = async |index: usize| {
        let url = format!("{}/health/ready", it.cluster.url(index));
        Reply::to(it.cluster.http.get(url).timeout(TIMEOUT)).await
    };
    let message = ready(1).await.refused(503, "not_ready");
    assert!(message.contains("an operator has drained"), "{message}");
    assert_eq!(ready(0).await.status, StatusCode::OK);
    let shown = it.get(0, "cluster").await;
    let state = |shown: &Value, name: &str| {
        let all = shown["replicas"].as_array().unwrap();
        let replica = all.iter().find(|replica| replica["name"] == name).unwrap().clone();
        (replica["drained"].as_bool().unwrap(), replica["ready"].as_bool().unwrap())
    };
    assert_eq!((state(&shown, "replica-1"), state(&shown, "replica-2")), ((false, true), (true, false)));
    it.act(0, "drain", json!({ "replica": "replica-2", "drained": false })).await;
    assert_eq!(ready(1).await.status, StatusCode::OK);
    assert_eq!(state(&it.get(1, "cluster").await, "replica-2"), (false, true));
    let mut back = socket(&it.cluster, 1, &user, None, None).await;
    store(&it.cluster, 0, &user, "laptop", &[("tasks", "a")]).await;
    support::live::woken(&mut back).await;
    support::live::woken(&mut stays).await;
}

#[tokio::test]
async fn the_log_is_changed_while_a_replica_runs() {
    let it = administered(2, &[]).await;
    it.acquainted().await;
    it.act(0, "settings", json!({ "log": "info,mana_sync::http=debug", "replica": "replica-2" })).await;
    it.cluster.pushed_to(0, &it.cluster.user(), APP, json!({ "clientId": "a", "changes": [] })).await;
    it.cluster.pushed_to(1, &it.cluster.user(), APP, json!({ "clientId": "a", "changes": [] })).await;
    eventually("it writes more", async || it.cluster.nodes[1].log().contains("\"answered\"")).await;
    assert!(!it.cluster.nodes[0].log().contains("\"answered\""));
    for filter in ["", "loud", "info,,", "mana_sync=loud", "info,mana_sync", &"info,".repeat(400)] {
        it.post(0, "settings", json!({ "log": filter })).await.refused(400, "bad_request");
    }
}

#[tokio::test]
async fn a_replica_that_does_not_answer_is_told_of_and_one_that_stops_is_gone() {
    let mut it = administered(3, &[]).await;
    it.acquainted().await;
    it.cluster.nodes[1].process.pause();
    let shown = it.get(0, "cluster").await;
    assert_eq!(names(&shown["replicas"]), ["replica-1", "replica-3"]);
    assert_eq!(names(&shown["silent"]), ["replica-2"]);
    let user = it.cluster.user();
    let reply = it.post(0, "disconnect", json!({ "userId": user.id })).await.json();
    assert_eq!(names(&reply["silent"]), ["replica-2"], "{reply}");
    it.cluster.nodes[1].process.resume();
    it.acquainted().await;
    it.cluster.nodes[2].process.terminate(TIMEOUT).await.unwrap();
    let shown = it.get(0, "cluster").await;
    assert_eq!((names(&shown["replicas"]).len(), &shown["silent"]), (2, &json!([])), "{shown}");
    // Killed, it says no goodbye; started again under its name it is the one.
    it.cluster.nodes[1].process.kill().await;
    it.cluster.nodes[1].restart().await;
    eventually("it is known again", async || {
        let shown = it.get(0, "cluster").await;
        names(&shown["replicas"]) == ["replica-1", "replica-2"] && shown["silent"] == json!([])
    })
    .await;
}

#[tokio::test]
async fn without_the_token_nothing_is_told_or_done() {
    let it = administered(1, &[]).await;
    let paths = [
        (Method::GET, "cluster"),
        (Method::GET, "load"),
        (Method::GET, "user?id=alice"),
        (Method::GET, "record?user=a&app=b&table=c&id=d"),
        (Method::GET, "refused-tokens"),
        (Method::GET, "openapi.yaml"),
        (Method::POST, "disconnect"),
        (Method::POST, "refused-tokens"),
        (Method::POST, "drain"),
        (Method::POST, "compact"),
        (Method::POST, "settings"),
        (Method::GET, "no-such-thing"),
    ];
    let user = it.cluster.user();
    let given = [
        "",
        "Bearer",
        "Bearer wrong",
        &format!("Basic {TOKEN}"),
        &format!("Bearer {TOKEN}x"),
        &format!("Bearer {}", user.token),
    ];
    for (method, path) in paths {
        for authorization in given {
            let url = format!("{}/api/v1/{path}", it.admin[0]);
            let mut request = it.cluster.http.request(method.clone(), url).timeout(TIMEOUT);
            if !authorization.is_empty() {
                request = request.header("Authorization", authorization);
            }
            let reply = Reply::to(request).await;
            reply.refused(401, "unauthorized");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
    let log = it.cluster.nodes[0].log();
    assert!(log.contains("somebody without the admin token was refused") && !log.contains(TOKEN), "{log}");
    // The public port has none of it.
    let public = it.cluster.get_as(&format!("Bearer {TOKEN}"), "/api/v1/cluster").await;
    public.refused(404, "not_found");
}

#[tokio::test]
async fn what_is_wrong_is_said_and_nothing_is_done() {
    let it = administered(1, &[]).await;
    let long = "x".repeat(256);
    for (path, body) in [
        ("disconnect", json!({})),
        ("disconnect", json!({ "userId": "" })),
        ("disconnect", json!({ "userId": 7 })),
        ("disconnect", json!({ "userId": "a\u{0}" })),
        ("disconnect", json!({ "userId": long })),
        ("disconnect", json!({ "userId": "a", "devise": "phone" })),
        ("disconnect", json!({ "userId": "a", "device": "" })),
        ("disconnect", json!([])),
        ("refused-tokens", json!({ "tokenId": "" })),
        ("refused-tokens", json!({ "tokenId": long })),
        ("refused-tokens", json!({ "tokenId": "a", "until": "tomorrow" })),
        ("refused-tokens", json!({ "tokenId": "a", "until": "2020-01-01T00:00:00Z" })),
        ("refused-tokens", json!({ "tokenId": "a", "until": "2999-01-01T00:00:00Z" })),
        ("drain", json!({ "drained": true })),
        ("drain", json!({ "replica": "replica-1" })),
        ("settings", json!({})),
    ] {
        it.post(0, path, body.clone()).await.refused(400, "bad_request");
    }
    for path in ["user", "user?id=", "user?id=a&sessions=x", "user?id=a&sessions=2001", &format!("user?id={long}")] {
        Reply::to(it.request(0, Method::GET, path)).await.refused(400, "bad_request");
    }
    it.post(0, "drain", json!({ "replica": "replica-9", "drained": true })).await.refused(404, "not_found");
    it.post(0, "cluster", json!({})).await.refused(405, "method_not_allowed");
    let text = it.request(0, Method::POST, "drain").header("Content-Type", "text/plain").body("{}");
    Reply::to(text).await.refused(415, "unsupported_media_type");
    let large = it.request(0, Method::POST, "drain").header("Content-Type", "application/json");
    Reply::to(large.body(" ".repeat(70_000))).await.refused(413, "payload_too_large");
    assert_eq!(it.get(0, "refused-tokens").await, json!({ "refusedTokens": [] }));
    assert_eq!(it.get(0, "cluster").await["replicas"][0]["drained"], false);
}

#[tokio::test]
async fn health_and_metrics_are_on_the_admin_port_and_can_be_taken_off_the_public_one() {
    let it = administered(1, &[("PUBLIC_METRICS", "false")]).await;
    let at =
        async |base: &str, path: &str| Reply::to(it.cluster.http.get(format!("{base}{path}")).timeout(TIMEOUT)).await;
    let (public, admin) = (it.cluster.url(0), it.admin[0].as_str());
    at(public, "/metrics").await.refused(404, "not_found");
    assert!(at(admin, "/metrics").await.text.contains("mana_sync_connections_total 0\n"));
    let members = |reply: &Reply| reply.json().as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let health = at(public, "/health").await;
    assert!(health.text.starts_with(r#"{"status":"ok","service":"mana-sync","timestamp":""#), "{health:?}");
    assert_eq!(members(&health), ["service", "status", "timestamp"]);
    assert_eq!(members(&at(admin, "/health").await), ["connections", "service", "status", "timestamp", "users"]);
    for base in [public, admin] {
        assert_eq!(at(base, "/health/live").await.json(), json!({ "status": "ok" }));
        assert_eq!(at(base, "/health/ready").await.json(), json!({ "status": "ready" }));
    }
    it.act(0, "drain", json!({ "replica": "replica-1", "drained": true })).await;
    let told = at(public, "/health/ready").await;
    assert!(!told.refused(503, "not_ready").contains("drained"), "{told:?}");
    assert!(at(admin, "/health/ready").await.refused(503, "not_ready").contains("drained"));
}

#[tokio::test]
async fn a_port_without_a_token_stops_the_start_and_no_token_is_ever_printed() {
    let run = async |settings: &[(&str, &str)]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
        command.env_clear().env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none").env("PORT", "39999");
        let output = command.envs(settings.iter().copied()).kill_on_drop(true).output();
        let output = tokio::time::timeout(Duration::from_secs(10), output).await.expect("it must end").unwrap();
        assert!(!output.status.success());
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
    };
    for (settings, said) in [
        (vec![("ADMIN_PORT", "0")], "ADMIN_PORT needs ADMIN_TOKEN"),
        (vec![("ADMIN_PORT", "39999"), ("ADMIN_TOKEN", TOKEN)], "ADMIN_PORT must not be the same as PORT"),
        (vec![("ADMIN_PORT", "0"), ("ADMIN_TOKEN", "too-short")], "at least 16"),
        (vec![("ADMIN_PORT", "0"), ("ADMIN_TOKEN", "a token with spaces in it")], "at least 16"),
    ] {
        let output = run(&settings).await;
        assert!(output.contains(said), "{output}");
        for (_, value) in settings.iter().filter(|(name, _)| *name == "ADMIN_TOKEN") {
            assert!(!output.contains(value), "{output}");
        }
    }
}

#[tokio::test]
async fn a_replica_whose_database_is_away_still_answers_for_itself() {
    let mut postgres = mana_dev::TemporaryPostgres::start(std::path::Path::new(".dev"), vec![]).await.unwrap();
    let settings = [("ADMIN_PORT", "0"), ("ADMIN_TOKEN", TOKEN)];
    let cluster = Cluster::start_on(&postgres.server().admin_url(), 2, &settings).await;
    let admin = (0..2).map(|index| admin_url(&cluster, index)).collect();
    let it = Administered { cluster, admin };
    it.acquainted().await;
    let user = it.cluster.user();
    let _socket = socket(&it.cluster, 0, &user, None, None).await;
    postgres.server_mut().kill().await.unwrap();
    eventually("it says that it is alone", async || {
        let shown = it.get(0, "cluster").await;
        shown["problem"].is_string() && names(&shown["replicas"]) == ["replica-1"] && shown["database"].is_null()
    })
    .await;
    let shown = it.user(0, &user).await;
    assert_eq!(shown["sessionsTotal"], 1);
    assert!(shown["problem"].is_string(), "{shown}");
    let record = Reply::to(it.request(0, Method::GET, "record?user=a&app=b&table=c&id=d")).await;
    record.refused(503, "unavailable");
    postgres.server_mut().restart(mana_dev::Shutdown::Fast).await.unwrap();
    it.acquainted().await;
}

#[tokio::test]
async fn a_replica_without_an_admin_port_is_told_of() {
    let postgres = mana_dev::TemporaryPostgres::start(std::path::Path::new(".dev"), vec![]).await.unwrap();
    let settings = |replica, _: &str| match replica {
        0 => [("ADMIN_PORT", "0"), ("ADMIN_TOKEN", TOKEN)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        _ => vec![],
    };
    let cluster = Cluster::start_each(&postgres.server().admin_url(), 2, settings).await;
    let it = Administered { admin: vec![admin_url(&cluster, 0)], cluster };
    eventually("it is told of", async || {
        let shown = it.get(0, "cluster").await;
        let problem = shown["problem"].as_str().unwrap_or_default().to_owned();
        names(&shown["replicas"]) == ["replica-1"] && problem.starts_with("replica-2 is there and cannot be asked")
    })
    .await;
}

#[tokio::test]
async fn the_command_line_does_the_same() {
    let it = administered(2, &[]).await;
    it.acquainted().await;
    let user = with_token_id(&it.cluster, &it.cluster.user(), &json!("lost"));
    let mut phone = socket(&it.cluster, 1, &user, None, Some("phone")).await;
    it.cluster.pushed(&user, APP, json!({ "clientId": "laptop", "changes": [insert("tasks", "a", "Milk", AT)] })).await;
    support::live::woken(&mut phone).await;
    let run = async |words: &[&str], token: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
        command.arg("admin").args(words).env_clear().env("ADMIN_URL", &it.admin[0]).env("ADMIN_TOKEN", token);
        let output = tokio::time::timeout(TIMEOUT, command.kill_on_drop(true).output()).await.unwrap().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.success(), text)
    };
    let done = async |words: &[&str]| {
        let (success, text) = run(words, TOKEN).await;
        assert!(success, "{words:?}: {text}");
        text
    };
    let cluster = done(&["cluster"]).await;
    assert!(
        cluster.contains("replica-1") && cluster.contains("replica-2") && cluster.contains("PostgreSQL"),
        "{cluster}"
    );
    let json: Value = serde_json::from_str(&done(&["cluster", "--json"]).await).unwrap();
    assert_eq!(names(&json["replicas"]).len(), 2);
    let shown = done(&["user", &user.id]).await;
    assert!(shown.contains("1 sessions") && shown.contains("laptop") && shown.contains("lost"), "{shown}");
    let record = done(&["record", "--user", &user.id, "--app", APP, "--table", "tasks", "--id", "a"]).await;
    assert!(record.contains("\"Milk\"") && record.contains("wins"), "{record}");
    assert!(done(&["drain", "replica-2"]).await.contains("drained"));
    assert_eq!(closed(&mut phone).await, Some(1012));
    assert!(done(&["take-back", "replica-2"]).await.contains("taken back"));
    assert!(done(&["disconnect", &user.id, "--device", "phone"]).await.contains("0 sessions"));
    done(&["refuse-token", "lost"]).await;
    assert!(done(&["refused-tokens"]).await.contains("lost"));
    assert!(done(&["log", "debug", "--replica", "replica-1"]).await.contains("the log shows debug"));
    for (words, token, said) in [
        (vec!["cluster"], "a-wrong-admin-token", "send the admin token"),
        (vec!["drain", "replica-9"], TOKEN, "no replica is called replica-9"),
        (vec!["log", "loud"], TOKEN, "as RUST_LOG has it"),
    ] {
        let (success, text) = run(&words, token).await;
        assert!(!success && text.contains(said) && !text.contains("panicked"), "{words:?}: {text}");
    }
}

#[tokio::test]
async fn the_description_names_every_path_and_every_member_of_what_is_answered() {
    let it = administered(1, &[]).await;
    let user = it.cluster.user();
    let _socket = socket(&it.cluster, 0, &user, None, Some("phone")).await;
    it.cluster.pushed(&user, APP, json!({ "clientId": "laptop", "changes": [insert("tasks", "a", "Milk", AT)] })).await;
    let reply = Reply::to(it.request(0, Method::GET, "openapi.yaml")).await;
    assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, Some("application/yaml")));
    let description = reply.text;
    let record = format!("record?user={}&app={APP}&table=tasks&id=a", user.id);
    for path in ["cluster", "load", &format!("user?id={}", user.id), &record, "refused-tokens"] {
        let answer = it.get(0, path).await;
        let path = path.split('?').next().unwrap();
        assert!(description.contains(&format!("  /{path}:\n")), "{path}");
        for name in members(&answer) {
            assert!(description.contains(&format!(" {name}:")), "{path}: {name}");
        }
    }
    for path in ["disconnect", "drain", "compact", "settings", "openapi.yaml"] {
        assert!(description.contains(&format!("  /{path}:\n")), "{path}");
    }
}

/// The names of all members, however deep.
fn members(json: &Value) -> Vec<String> {
    match json {
        Value::Object(object) => {
            object.iter().flat_map(|(name, value)| [vec![name.clone()], members(value)].concat()).collect()
        }
        Value::Array(list) => list.iter().flat_map(members).collect(),
        _ => vec![],
    }
}
