//! Clients that misbehave, by intent or because of a bad network. They must not harm the others.

use crate::cluster::FaultyCluster;
use crate::readers::stream_request;
use crate::workload::{Kind, Workload};
use mana_load::stream::StreamReader;
use mana_load::wakeups::Wakeups;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

const CLIENTS: usize = 60;
/// How long a slow reader reads afterwards.
const READ_ON: Duration = Duration::from_millis(500);

fn address(cluster: &FaultyCluster, replica: usize) -> String {
    cluster.urls()[replica].trim_start_matches("http://").to_owned()
}

/// Opens connections and WebSockets, and sends nothing on them.
pub async fn never_authenticate(cluster: &FaultyCluster, replica: usize, end: Instant) {
    let (mut silent, mut sockets) = (Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        // The replica may be down: that is another fault.
        silent.extend(TcpStream::connect(address(cluster, replica)).await.ok());
        let opened = tokio::time::timeout_at(end, Wakeups::open(&cluster.urls()[replica], None)).await;
        sockets.extend(opened.ok().and_then(Result::ok));
    }
    sleep_until(end).await;
}

/// Sends heads and push bodies byte by byte, and never finishes.
pub async fn send_slowly(cluster: &FaultyCluster, replica: usize, end: Instant) {
    let mut connections = Vec::new();
    for n in 0..CLIENTS {
        if let Ok(mut connection) = TcpStream::connect(address(cluster, replica)).await {
            let token = &cluster.inner.user_named("slow").token;
            let head = format!(
                "POST /sync/slow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
                 Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
            );
            if n % 2 == 0 {
                let _ = connection.write_all(head.as_bytes()).await;
            }
            connections.push(connection);
        }
    }
    while Instant::now() < end {
        for connection in &mut connections {
            let _ = connection.write_all(b" ").await;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Opens a WebSocket and a stream that are not read until the end. The stream then delivers the beginning of the log.
pub async fn read_nothing(cluster: &FaultyCluster, workload: &Workload, replica: usize, end: Instant) {
    let name = format!("slow-{}", workload.next_number());
    let party = &workload.parties[0];
    let socket = Wakeups::connect(&cluster.urls()[replica], None, &party.user.token, None).await;
    let stream = StreamReader::open(&cluster.inner.http, &stream_request(cluster, party, &name, replica)).await;
    sleep_until(end).await;
    if let Ok(mut socket) = socket {
        // Woken or closed: both are correct.
        let _ = socket.next(READ_ON).await;
    }
    if let Ok(mut stream) = stream {
        let reader = workload.reader(format!("slow stream {name} of user 0"), 0, Kind::Beginning);
        let reading = async {
            let mut page = Vec::new();
            while let Ok(Some((id, delta))) = stream.next_delta(READ_ON).await {
                page.extend(delta.changes);
                if id.is_some() {
                    reader.add_page(std::mem::take(&mut page), &delta.synced_until);
                }
            }
        };
        // It does not end while others write.
        let _ = tokio::time::timeout(READ_ON, reading).await;
    }
}
