//! Unread answers, however small: their memory stays reserved until the transport has written them.

use crate::support::live::{NO_DELTA, Raw, metric};
use crate::support::*;
use serde_json::json;

const AT: &str = "2024-01-01T10:00:00.000Z";
/// The approximate size of each answer.
const ANSWER: usize = 60_000;
const CONNECTIONS: usize = 4;

async fn reserved(cluster: &Cluster) -> usize {
    metric(cluster, 0, "mana_sync_stream_bytes").await as usize
}

/// Waits until no more answers are sent, which nothing else shows: all transports are full.
async fn stalled(cluster: &Cluster) {
    let answered = async || metric(cluster, 0, "mana_sync_pull_duration_seconds_count").await as usize;
    let (mut before, mut quiet) = (0, 0);
    eventually("the transports are full", async || {
        let now = answered().await;
        quiet = if now == before && now > 0 { quiet + 1 } else { 0 };
        before = now;
        quiet > 20
    })
    .await;
}

#[tokio::test]
async fn small_answers_that_are_not_read_are_counted_until_their_connection_ends() {
    let cluster = Cluster::start_with(1, &[("WRITE_TIMEOUT_MS", "600000")]).await;
    let user = cluster.user();
    let text: String = (0..ANSWER as u64 / 8).map(|n| format!("{:08x}", n.wrapping_mul(0x9e37_79b9) as u32)).collect();
    let body = json!({ "clientId": "a", "since": NO_DELTA, "changes": [update("t", "1", "text", text, AT)] });
    cluster.pushed(&user, "todo", body).await;
    for encoding in ["identity", "gzip"] {
        let pull = format!(
            "GET /sync/todo/pull?collection=t&since={BEGINNING} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {encoding}\r\n\
             Authorization: Bearer {}\r\n\r\n",
            user.token
        );
        let mut unread = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut raw = Raw::connect_narrow(cluster.url(0), 4 << 10).await;
            // More than the kernel buffers for a client that does not read.
            raw.write(pull.repeat(300).as_bytes()).await;
            unread.push(raw);
        }
        stalled(&cluster).await;
        let held = reserved(&cluster).await;
        assert!(held >= CONNECTIONS * ANSWER / 2, "{encoding}: {held} bytes are reserved");
        assert!(held <= CONNECTIONS * 4 * ANSWER, "{encoding}: {held} bytes are reserved");
        drop(unread);
        eventually("all of it is given back", async || reserved(&cluster).await == 0).await;
    }
}

/// They need no authentication.
#[tokio::test]
async fn metrics_that_are_not_read_are_so_many_at_most() {
    // On a slow machine, writing the last of the answers takes longer than the first may remain unread by default.
    let cluster = Cluster::start_with(1, &[("WRITE_TIMEOUT_MS", "600000")]).await;
    // More than the kernel buffers for a client that does not read; a page has about 40 KB.
    let ask = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50);
    let mut unread = Vec::new();
    // As many as may be unread at a time, and some instead of those that found no room and are full of refusals.
    eventually("no more are answered", async || {
        let mut raw = Raw::connect_narrow(cluster.url(0), 4 << 10).await;
        raw.write(ask.as_bytes()).await;
        unread.push(raw);
        unread.len() > 60 && cluster.get("/metrics").await.status == 503
    })
    .await;
    assert_eq!(cluster.get("/health").await.status, 200);
    drop(unread);
    eventually("they are again", async || cluster.get("/metrics").await.status == 200).await;
    assert!(metric(&cluster, 0, "mana_sync_refused_total{limit=\"scrapes\"}").await >= 1.0);
}

/// Returns the bytes that the operating system keeps of what a server has written to a client, on IPv4.
fn unsent(server: u16, client: u16) -> Option<usize> {
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    connections.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let ours = port(columns[1]) == Some(server) && port(columns[2]) == Some(client);
        ours.then(|| usize::from_str_radix(columns[4].split(':').next()?, 16).ok()).flatten()
    })
}

#[tokio::test]
async fn the_operating_system_keeps_little_of_what_is_not_read() {
    const LARGE: usize = 8 << 20;
    let cluster = Cluster::start(1).await;
    let user = cluster.user();
    let body =
        json!({ "clientId": "a", "since": NO_DELTA, "changes": [update("t", "1", "text", "x".repeat(LARGE), AT)] });
    cluster.pushed(&user, "todo", body).await;
    let mut raw = Raw::connect_narrow(cluster.url(0), 4 << 10).await;
    let pull = format!(
        "GET /sync/todo/pull?collection=t&since={BEGINNING} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        user.token
    );
    raw.write(pull.as_bytes()).await;
    stalled(&cluster).await;
    let server = url::Url::parse(cluster.url(0)).unwrap().port().unwrap();
    let kept = unsent(server, raw.local_port()).expect("the connection is open");
    assert!(kept > 0 && kept < 384 << 10, "{kept} bytes are kept of {LARGE}");
    assert!(reserved(&cluster).await >= LARGE - kept, "the replica counts the rest");
}
