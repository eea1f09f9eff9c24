//! Unauthenticated clients.

use crate::replica::{LimitedReplica, many};
use crate::support::*;
use futures_util::stream::{self, StreamExt};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long the connections stay open.
const STAY: Duration = Duration::from_secs(2);
const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Opens connections and sends something unfinished on each. Returns those that were not refused.
pub async fn open(replica: &LimitedReplica, count: usize, said: Vec<u8>, answers: bool) -> Vec<TcpStream> {
    let address = replica.url().trim_start_matches("http://");
    let said = &said;
    let open = async |_| {
        let mut stream = TcpStream::connect(address).await.ok()?;
        if answers {
            stream.write_all(UPGRADE.as_bytes()).await.ok()?;
            let mut answer = [0; 64];
            stream.read(&mut answer).await.ok().filter(|read| *read > 0)?;
        }
        stream.write_all(said).await.ok()?;
        Some(stream)
    };
    let opened = stream::iter(0..count).map(open).buffer_unordered(200);
    opened.filter_map(|stream| async { stream }).collect().await
}

async fn stay(replica: &LimitedReplica, connections: Vec<TcpStream>) {
    assert!(!connections.is_empty());
    tokio::time::sleep(STAY).await;
    drop(connections);
    eventually("all of it is given back", async || replica.metric("mana_sync_unauthenticated_bytes").await == 0.0)
        .await;
}

pub async fn sockets(replica: &LimitedReplica, count: usize) {
    // A text frame of 60,000 bytes, and one of an accepted length; most of each.
    for length in [60_000_u64, 16_000] {
        let head = [&[0x81, 0x80 | 127][..], &length.to_be_bytes(), &[0; 4]].concat();
        let said = [head, vec![b'x'; length as usize - 1_000]].concat();
        stay(replica, open(replica, count, said, true).await).await;
    }
}

pub async fn heads(replica: &LimitedReplica, count: usize) {
    for length in [4_000, 60_000] {
        let said = format!("GET /health HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(length)).into_bytes();
        stay(replica, open(replica, count, said, false).await).await;
    }
}

pub async fn bodies(replica: &LimitedReplica) {
    let head =
        "POST /sync/todo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9000000\r\n\r\n";
    let said = [head.as_bytes(), &vec![b' '; 400_000]].concat();
    let connections = open(replica, many(3_000, 500), said, false).await;
    tokio::time::sleep(STAY).await;
    drop(connections);
}
