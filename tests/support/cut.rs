//! A connection to the database that ends after a number of statements, as that of a process that is killed.

use super::proxy::through;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// A proxy to PostgreSQL that stops after this many statements: the last one is sent in full, but its response is lost.
#[derive(Debug)]
pub struct Cut {
    url: String,
    _accepting: AbortOnDropHandle<()>,
}

impl Cut {
    /// Starts one on a port of its own, to the server of this URL.
    pub async fn after(url: &str, statements: i64) -> Cut {
        let server: url::Url = url.parse().unwrap();
        let server = (server.host_str().unwrap(), server.port().unwrap());
        let upstream = tokio::net::lookup_host(server).await.unwrap().next().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let through = through(listener.local_addr().unwrap(), url);
        // Encrypted statements could not be counted.
        let url = format!("{through}{}sslmode=disable", if through.contains('?') { "&" } else { "?" });
        let (left, over) = (Arc::new(AtomicI64::new(statements)), CancellationToken::new());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (left, over) = (left.clone(), over.clone());
                if over.is_cancelled() {
                    continue;
                }
                tokio::spawn(async move {
                    let server = TcpStream::connect(upstream).await.unwrap();
                    // Without it, forwarded statements wait for acknowledgements.
                    [&client, &server].iter().for_each(|stream| stream.set_nodelay(true).unwrap());
                    let ((from_client, mut to_client), (mut from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::select! {
                        () = over.cancelled() => {}
                        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                        ended = pass(from_client, to_server, &left) => if matches!(ended, Ok(End::Statements)) { over.cancel() },
                    }
                });
            }
        });
        Cut { url, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// The URL through this proxy.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// The reason that forwarding ended.
enum End {
    /// No more statements may be sent.
    Statements,
    Client,
}

/// Forwards messages until the statements are used up.
/// <https://www.postgresql.org/docs/current/protocol-message-formats.html>
async fn pass(mut client: OwnedReadHalf, mut server: OwnedWriteHalf, left: &AtomicI64) -> std::io::Result<End> {
    // The first message has no type.
    let mut kind = None;
    loop {
        let mut message = Vec::new();
        message.extend(kind);
        let mut length = [0; 4];
        if client.read_exact(&mut length).await.is_err() {
            return Ok(End::Client);
        }
        message.extend(length);
        let head = message.len();
        message.resize(head + u32::from_be_bytes(length) as usize - 4, 0);
        client.read_exact(&mut message[head..]).await?;
        // A Sync, which ends the messages of a prepared statement, or a simple query.
        let is_statement = matches!(kind, Some(b'S' | b'Q'));
        if is_statement && left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Ok(End::Statements);
        }
        server.write_all(&message).await?;
        if is_statement && left.load(Ordering::SeqCst) <= 0 {
            return Ok(End::Statements);
        }
        let mut next = [0];
        if client.read_exact(&mut next).await.is_err() {
            return Ok(End::Client);
        }
        kind = Some(next[0]);
    }
}
