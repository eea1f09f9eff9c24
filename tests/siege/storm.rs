//! Memory is released after very many clients have come and gone at once.

use crate::replica::{LimitedReplica, is_long, many};
use crate::support::*;
use crate::unauthenticated;
use futures_util::stream::{self, StreamExt};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Maximum time until memory is released, and the factor of the earlier usage that may remain.
const COMES_BACK: Duration = Duration::from_secs(60);
const LEFT: f64 = 1.5;
/// Extra bytes that a small debug build may use.
const NOISE: u64 = 16 << 20;

async fn streams(replica: &LimitedReplica, count: usize) -> Vec<TcpStream> {
    let address = replica.url().trim_start_matches("http://");
    let users: Vec<User> = (0..count.div_ceil(100)).map(|_| replica.cluster.user()).collect();
    let users = &users;
    let open = async |n: usize| {
        let user = &users[n / 100];
        let head = format!("GET /sync/todo/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", user.token);
        let begun = Instant::now();
        // A client that is told to retry does.
        while begun.elapsed() < TIMEOUT {
            let mut stream = TcpStream::connect(address).await.ok()?;
            stream.write_all(head.as_bytes()).await.ok()?;
            let mut answer = [0; 512];
            let read = stream.read(&mut answer).await.ok()?;
            if answer[..read].starts_with(b"HTTP/1.1 200 ") {
                return Some(stream);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        None
    };
    stream::iter(0..count).map(open).buffer_unordered(count).filter_map(|stream| async { stream }).collect().await
}

async fn come_and_go(
    replica: &LimitedReplica,
    what: &str,
    count: usize,
    connections: impl Future<Output = Vec<TcpStream>>,
) {
    let (before, _) = replica.resident();
    replica.forget_peak();
    let connections = connections.await;
    assert!(connections.len() > count / 2, "{} of {count} {what} were let in", connections.len());
    drop(connections);
    let gone = Instant::now();
    let allowed = (before as f64 * LEFT) as u64 + if is_long() { 0 } else { NOISE };
    loop {
        let (now, peak) = replica.resident();
        if now <= allowed || gone.elapsed() > COMES_BACK {
            println!(
                "{count} {what}: {} MiB before, {} at most, {} after {:.0?}",
                before >> 20,
                peak >> 20,
                now >> 20,
                gone.elapsed()
            );
            assert!(now <= allowed, "{what}: {} MiB stay of {} before", now >> 20, before >> 20);
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_comes_back_when_those_who_came_at_once_have_left() {
    let replica = LimitedReplica::start(&[]).await;
    let count = many(10_000, 1_000);
    come_and_go(&replica, "sockets", count, unauthenticated::open(&replica, count, b"".to_vec(), true)).await;
    come_and_go(&replica, "streams", count, streams(&replica, count)).await;
    let said = format!("GET /health HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(60_000)).into_bytes();
    come_and_go(&replica, "heads", count, unauthenticated::open(&replica, count, said, false)).await;
}
