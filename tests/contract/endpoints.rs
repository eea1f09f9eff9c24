//! Endpoints: each described response occurs, as described, and no other.

use crate::documents::{OpenApi, Operation};
use crate::support::live::{NO_DELTA, Raw};
use crate::support::*;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const AT: &str = "2024-01-01T10:05:00.000Z";

const PUSH: (&str, &str) = ("post", "/sync/{appId}");
const PULL: (&str, &str) = ("get", "/sync/{appId}/pull");
const STREAM: (&str, &str) = ("get", "/sync/{appId}/stream");
const APPS_STREAM: (&str, &str) = ("get", "/sync/stream");
const WS: (&str, &str) = ("get", "/ws");
const WS_APP: (&str, &str) = ("get", "/ws/{appId}");
const READY: (&str, &str) = ("get", "/health/ready");

/// Described, but hard to provoke here: a body that takes a minute, values that PostgreSQL refuses after they were
/// checked, internal errors, and limits that operators set.
const UNSEEN: [u16; 4] = [408, 422, 429, 500];

/// The responses seen, each checked against its description.
struct Seen {
    openapi: OpenApi,
    statuses: BTreeMap<Operation, BTreeSet<u16>>,
}

impl Seen {
    async fn ask(&mut self, operation: (&str, &str), request: RequestBuilder) -> Reply {
        let reply = Reply::to(request).await;
        self.note(operation, &reply);
        reply
    }

    #[track_caller]
    fn note(&mut self, (method, path): (&str, &str), reply: &Reply) {
        let operation = (method.to_owned(), path.to_owned());
        self.openapi.check(&operation, reply);
        self.statuses.entry(operation).or_default().insert(reply.status.as_u16());
    }

    /// Opens a stream, which must succeed; its contents are checked by another test.
    async fn open(&mut self, operation: (&str, &str), request: RequestBuilder) -> reqwest::Response {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        self.note(operation, &Reply { status, headers, text: String::new() });
        response
    }
}

fn push(cluster: &Cluster, user: &User, body: &Value) -> RequestBuilder {
    let request = cluster.request(user, Method::POST, "/sync/todo").header("Content-Type", "application/json");
    request.body(body.to_string())
}

fn get(cluster: &Cluster, user: &User, path: &str) -> RequestBuilder {
    cluster.request(user, Method::GET, path)
}

fn unsigned(cluster: &Cluster, method: Method, path: &str) -> RequestBuilder {
    cluster.http.request(method, format!("{}{path}", cluster.url(0))).timeout(TIMEOUT)
}

fn upgrade(cluster: &Cluster, path: &str) -> RequestBuilder {
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let request = unsigned(cluster, Method::GET, path).header("Connection", "Upgrade").header("Upgrade", "websocket");
    request.header("Sec-WebSocket-Version", "13").header("Sec-WebSocket-Key", key)
}

const APPS_PATH: &str = "/sync/stream?apps=todo,calendar:events;tasks";
const PULL_PATH: &str = "/sync/todo/pull?collection=tasks&since=1970-01-01T00:00:00.000Z";

/// Successful requests, with everything that a response can contain.
async fn successes(seen: &mut Seen, cluster: &Cluster) {
    let user = cluster.user();
    let later = iso(now_millis() + 3_600_000);
    let theirs = json!({ "clientId": "laptop", "since": NO_DELTA, "schemaVersion": 1, "changes": [
        insert("tasks", "a", "Milk", AT),
        update("tasks", "b", "title", "Eggs", "2024-01-01T10:07:00Z"),
        { "table": "tasks", "id": "c", "op": "insert", "data": { "title": "no stamp" } },
        { "table": "tasks", "id": "d", "op": "delete", "deletedAt": AT, "actor": { "kind": "user" }, "mine": [1] },
        { "table": "lists", "id": "e", "op": "delete" },
        update("lists", "f", "title", Value::Null, &later),
    ] });
    let stored = seen.ask(PUSH, push(cluster, &user, &theirs)).await.json();
    assert_eq!(stored["adjusted"][0]["index"], 5, "{stored}");
    let ours =
        json!({ "clientId": "phone", "changes": [update("tasks", "b", "title", "Ham", "2024-01-01T10:06:00Z")] });
    let answered = seen.ask(PUSH, push(cluster, &user, &ours)).await.json();
    assert_eq!(answered["conflicts"][0]["serverValue"], "Eggs", "{answered}");
    assert_eq!(answered["serverChanges"].as_array().unwrap().len(), 6, "{answered}");
    seen.ask(PULL, get(cluster, &user, PULL_PATH)).await;
    drop(seen.open(STREAM, get(cluster, &user, "/sync/todo/stream")).await);
    drop(seen.open(APPS_STREAM, get(cluster, &user, APPS_PATH)).await);
    for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
        seen.ask(("get", path), unsigned(cluster, Method::GET, path)).await;
    }
    seen.ask(WS, upgrade(cluster, "/ws")).await;
    seen.ask(WS_APP, upgrade(cluster, "/ws/todo")).await;
}

/// Refusals that are the client's fault.
async fn refusals(seen: &mut Seen, cluster: &Cluster) {
    let user = cluster.user();
    let nobody = User { id: String::new(), token: "nonsense".to_owned() };
    let broke = cluster.user();
    cluster.credits.set_active(&broke.id, false);
    let empty = json!({ "clientId": "phone" });
    for user in [&nobody, &broke] {
        seen.ask(PUSH, push(cluster, user, &empty)).await;
        seen.ask(PULL, get(cluster, user, PULL_PATH)).await;
        seen.ask(STREAM, get(cluster, user, "/sync/todo/stream")).await;
        seen.ask(APPS_STREAM, get(cluster, user, APPS_PATH)).await;
    }
    seen.ask(PUSH, push(cluster, &user, &json!({}))).await.refused(400, "bad_request");
    seen.ask(PULL, get(cluster, &user, "/sync/todo/pull")).await.refused(400, "bad_request");
    seen.ask(STREAM, get(cluster, &user, "/sync/todo/stream?since=now")).await.refused(400, "bad_request");
    seen.ask(APPS_STREAM, get(cluster, &user, "/sync/stream")).await.refused(400, "bad_request");
    seen.ask(WS_APP, upgrade(cluster, &format!("/ws/{}", "a".repeat(256)))).await.refused(400, "bad_request");
    let large = push(cluster, &user, &json!({ "clientId": "x".repeat(11 << 20) }));
    seen.ask(PUSH, large).await.refused(413, "payload_too_large");
    let plain = cluster.request(&user, Method::POST, "/sync/todo").header("Content-Type", "text/plain").body("{}");
    seen.ask(PUSH, plain).await.refused(415, "unsupported_media_type");
    seen.ask(WS, unsigned(cluster, Method::GET, "/ws")).await.refused(426, "upgrade_required");
    seen.ask(WS_APP, unsigned(cluster, Method::GET, "/ws/todo")).await.refused(426, "upgrade_required");
}

/// Refusals for lack of capacity, and of a replica that never had the issuer's keys.
async fn refusals_of_the_replica(seen: &mut Seen, cluster: &Cluster) {
    let user = cluster.user();
    let (open, second) = (get(cluster, &user, "/sync/todo/stream"), get(cluster, &user, "/sync/todo/stream"));
    let _open = seen.open(STREAM, open).await;
    seen.ask(STREAM, second).await.refused(429, "too_many_connections");
    let _unauthenticated = Raw::websocket(cluster.url(0), "/ws", 1 << 20).await;
    for (operation, path) in [(WS, "/ws"), (WS_APP, "/ws/todo")] {
        seen.ask(operation, upgrade(cluster, path)).await.refused(503, "busy");
    }

    let keyless = Cluster::start_with(1, &[("JWKS_URL", "http://127.0.0.1:1/jwks")]).await;
    let user = keyless.user();
    seen.ask(PUSH, push(&keyless, &user, &json!({ "clientId": "phone" }))).await.refused(503, "unavailable");
    seen.ask(PULL, get(&keyless, &user, PULL_PATH)).await.refused(503, "unavailable");
    seen.ask(STREAM, get(&keyless, &user, "/sync/todo/stream")).await.refused(503, "unavailable");
    seen.ask(APPS_STREAM, get(&keyless, &user, APPS_PATH)).await.refused(503, "unavailable");
    seen.ask(READY, unsigned(&keyless, Method::GET, READY.1)).await.refused(503, "not_ready");
}

#[tokio::test]
async fn every_described_answer_is_given_as_described() {
    let mut seen = Seen { openapi: OpenApi::load(), statuses: BTreeMap::new() };
    let roomy = Cluster::start(1).await;
    successes(&mut seen, &roomy).await;
    refusals(&mut seen, &roomy).await;
    let narrow = Cluster::start_with(1, &[("MAX_SESSIONS_PER_USER", "1"), ("MAX_UNAUTHENTICATED", "1")]).await;
    refusals_of_the_replica(&mut seen, &narrow).await;
    for operation in seen.openapi.operations() {
        let mut described = seen.openapi.statuses(&operation);
        let given = seen.statuses.remove(&operation).unwrap_or_default();
        described.retain(|status| given.contains(status) || !UNSEEN.contains(status));
        assert_eq!(given, described, "{operation:?}: given, and described");
    }
}
