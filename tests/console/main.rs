//! The console of the admin port in Chromium: `make test-browser`. `SCREENSHOTS=folder` saves screenshots of every
//! page.

#[path = "../support/mod.rs"]
mod support;

#[path = "../clients/program.rs"]
mod program;

use futures_util::{StreamExt, stream};
use mana_load::wakeups::{WakeMessage, Wakeups};
use program::run;
use serde_json::{Value, json};
use std::time::Duration;
use support::live::{APP, socket};
use support::*;
use tokio::task::JoinSet;

const TOKEN: &str = "an-admin-token-for-tests";
/// Sessions of one user.
const MANY: usize = 10_000;
/// Longer than the test takes.
const IDLE: Duration = Duration::from_secs(3600);
/// Number of sockets opened at the same time.
const AT_ONCE: usize = 32;

/// The address of a replica's admin port, from its log.
fn admin_url(node: &Node) -> String {
    let log = node.log();
    let line = log.lines().find(|line| line.contains("the admin port is open")).expect("it has one");
    let line: Value = serde_json::from_str(line).unwrap();
    format!("http://{}", line["address"].as_str().unwrap())
}

/// Reads from a socket, so that it answers pings and stays open. After the close, each further read returns at once.
async fn read_on(mut socket: Wakeups) {
    while socket.next(IDLE).await.is_ok_and(|message| !matches!(message, WakeMessage::Closed { .. })) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium: make test-browser"]
async fn operators_see_and_steer_the_cluster_in_a_browser() {
    let admin = [("ADMIN_PORT", "0"), ("ADMIN_TOKEN", TOKEN)];
    let many = [("MAX_SESSIONS_PER_USER", "20000"), ("MAX_UNAUTHENTICATED", "20000")];
    let cluster = Cluster::start_with(3, &[&admin[..], &many].concat()).await;
    let expiring = Cluster::start_with(1, &[&admin[..], &[("ADMIN_LOGIN_MS", "3000")]].concat()).await;
    let user = cluster.user_named("alice@example.com <b>not bold</b>");
    let expires = now_millis() / 1000 + 3600;
    let marked = cluster.key.mint(&json!({ "sub": user.id, "exp": expires, "jti": "token-of-the-tablet" }));
    let marked = User { id: user.id.clone(), token: marked };
    for (device, change) in [
        ("phone", insert("tasks", "milk", "Milk", "2024-01-01T10:00:00.000Z")),
        ("laptop", update("tasks", "milk", "title", "Eggs and <b>bread</b>", "2024-01-01T10:05:00.000Z")),
        ("phone", update("tasks", "milk", "title", "Butter", "2024-01-01T10:04:00.000Z")),
    ] {
        cluster.pushed(&user, APP, json!({ "clientId": device, "changes": [change] })).await;
    }
    let longest = "n".repeat(250);
    let change = insert("tasks", &longest, "An item", "2024-01-01T10:00:00.000Z");
    cluster.pushed(&user, APP, json!({ "clientId": longest, "changes": [change] })).await;
    let (status, _) = cluster.push(&User { id: String::new(), token: "none".to_owned() }, APP, json!({})).await;
    assert_eq!(status, 401, "so that there are refusals to show");
    let opening = stream::iter(0..MANY - 2).map(|n| {
        let (cluster, user, device) = (&cluster, &user, format!("browser-{n}"));
        async move { socket(cluster, n, user, Some(APP), Some(&device)).await }
    });
    let mut opening = opening.buffer_unordered(AT_ONCE);
    let mut reading = JoinSet::new();
    while let Some(socket) = opening.next().await {
        reading.spawn(read_on(socket));
    }
    reading.spawn(read_on(socket(&cluster, 1, &user, Some(APP), Some("phone")).await));
    reading.spawn(read_on(socket(&cluster, 2, &marked, Some(APP), Some("tablet")).await));
    let settings = json!({
        "scenario": "console",
        "urls": cluster.nodes.iter().map(admin_url).collect::<Vec<_>>(),
        "expiring": admin_url(&expiring.nodes[0]),
        "token": TOKEN,
        "user": user.id,
        "app": APP,
        "table": "tasks",
        "record": "milk",
        "longest": longest,
        "tokenId": "token-of-the-tablet",
        "sessions": MANY,
        "screenshots": std::env::var("SCREENSHOTS").ok(),
    });
    run("console/main.js", settings, async |_| ()).await;
}
