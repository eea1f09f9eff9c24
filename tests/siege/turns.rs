//! Clients that never let their connections wait: as much as there is to do for them at once is what everybody else
//! waits for, and a push waits for its turn several times.

use crate::replica::{LimitedReplica, many};
use crate::support::live::NO_DELTA;
use crate::support::*;
use futures_util::future::join_all;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

const AT: &str = "2024-01-01T10:00:00.000Z";
/// How long an attack goes on.
const LONG: Duration = Duration::from_millis(1_500);

/// Sends these bytes again and again, and reads what is answered, until the attack ends: on one connection after another, if
/// the replica closes them.
async fn without_pause(replica: &LimitedReplica, bytes: &[u8]) {
    let end = Instant::now() + LONG;
    let again = async || {
        let stream = TcpStream::connect(replica.url().trim_start_matches("http://")).await?;
        let (mut read, mut write) = stream.into_split();
        let reading = async { tokio::io::copy(&mut read, &mut tokio::io::sink()).await.map(drop) };
        let writing = async {
            loop {
                write.write_all(bytes).await?;
            }
        };
        futures_util::future::try_join(reading, writing).await.map(|((), ())| ())
    };
    while Instant::now() < end {
        // It ends with the connection, or with the attack.
        let _: Result<std::io::Result<()>, _> = timeout(end.saturating_duration_since(Instant::now()), again()).await;
    }
}

/// Requests that cost their client nothing: of somebody without an account, whose tokens are refused only after their
/// signatures were checked, such as everybody may send, and such as are refused to a member.
pub fn requests(user: &User) -> [(&'static str, String); 5] {
    let (signed, signature) = user.token.rsplit_once('.').unwrap();
    let wrong = if signature.starts_with('A') { "B" } else { "A" };
    let pull = |token: &str| {
        let query = "collection=t&since=x";
        format!("GET /sync/todo/pull?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n")
    };
    let simple = |line: &str| format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n");
    [
        ("requests one behind another, with wrong signatures", pull(&format!("{signed}.{wrong}{}", &signature[1..]))),
        ("... of a member", pull(&user.token)),
        ("... for the metrics", simple("GET /metrics")),
        ("... for nothing there is", simple("HEAD /nothing")),
        ("... as browsers send before others", simple("OPTIONS /sync/todo")),
    ]
}

/// Sends a request again and again on each of many connections, without waiting for the answers.
pub async fn without_answers(replica: &LimitedReplica, request: &str) {
    let many_of_them = request.repeat((32 << 10) / request.len());
    join_all((0..many(300, 200)).map(|_| without_pause(replica, many_of_them.as_bytes()))).await;
}

/// Sends a request again and again on each of many connections, and waits for each answer.
pub async fn with_answers(replica: &LimitedReplica, request: &str) {
    let again = async || {
        let mut stream = TcpStream::connect(replica.url().trim_start_matches("http://")).await?;
        let mut answer = [0; 8 << 10];
        loop {
            stream.write_all(request.as_bytes()).await?;
            // They are short, and nobody sends the next request before there is one.
            if stream.read(&mut answer).await? == 0 {
                return std::io::Result::Ok(());
            }
        }
    };
    // It ends with the connection, or with the attack.
    join_all((0..many(300, 200)).map(|_| timeout(LONG, again()))).await;
}

/// Pages of 10 MB that become very small, for clients that read as fast as they can.
pub async fn compressed_pages(replica: &LimitedReplica) {
    let users: Vec<User> = (0..many(8, 3)).map(|_| replica.cluster.user()).collect();
    for user in &users {
        let change = update("t", "1", "text", "x".repeat(9_900_000), AT);
        let body = json!({ "clientId": "a", "since": NO_DELTA, "changes": [change] });
        replica.store(user, body.to_string()).await;
    }
    let read = async |n: usize| {
        let (user, encoding) = (&users[n % users.len()], ["gzip", "br", "zstd"][n % 3]);
        let request = format!(
            "GET /sync/todo/pull?collection=t&since={BEGINNING} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
             Accept-Encoding: {encoding}\r\n\r\n",
            user.token
        );
        without_pause(replica, request.as_bytes()).await;
    };
    join_all((0..many(24, 9)).map(read)).await;
    eventually("all of it is given back", async || replica.metric("mana_sync_stream_bytes").await < 1e5).await;
}
