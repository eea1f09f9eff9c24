//! A wake-up WebSocket that costs the generator little memory, so that it can hold tens of thousands.

use std::net::IpAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::client::Failure;
use super::endpoint::{Endpoint, Io};

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketEvent {
    /// There is something to pull.
    Wakeup,
    /// Anything else except the end.
    Other(String),
    /// The end, with the close code if there was one.
    Closed(Option<u16>),
}

/// An authenticated WebSocket.
pub struct Socket {
    stream: WebSocketStream<Box<dyn Io>>,
}

/// By default, tungstenite takes 128 KiB for reading and writing on each connection.
fn lean() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(512).write_buffer_size(0)
}

impl Socket {
    /// Opens `/ws` (all apps of the user) and authenticates. `from` is the local address.
    pub async fn open(
        endpoint: &Endpoint,
        token: &str,
        client_id: Option<&str>,
        from: Option<IpAddr>,
    ) -> Result<Self, Failure> {
        let io = endpoint.connect(from).await.map_err(Failure::Connect)?;
        let url = format!("{}/ws", endpoint.url()).replacen("http", "ws", 1);
        let upgraded = client_async_with_config(url, io, Some(lean())).await;
        let (stream, _) = upgraded.map_err(failure)?;
        let mut socket = Self { stream };
        let mut auth = serde_json::json!({"type": "auth", "token": token});
        if let Some(client_id) = client_id {
            auth["clientId"] = client_id.into();
        }
        socket.stream.send(Message::text(auth.to_string())).await.map_err(failure)?;
        match socket.next().await? {
            SocketEvent::Other(text) if text.contains("auth-ok") => Ok(socket),
            SocketEvent::Closed(_) => Err(Failure::Closed),
            SocketEvent::Wakeup | SocketEvent::Other(_) => Err(Failure::Answer("expected auth-ok")),
        }
    }

    /// Returns the next message. Pings are answered on the way. Cancel safe.
    pub async fn next(&mut self) -> Result<SocketEvent, Failure> {
        loop {
            return Ok(match self.stream.next().await {
                None => SocketEvent::Closed(None),
                Some(Ok(Message::Close(frame))) => SocketEvent::Closed(frame.map(|frame| frame.code.into())),
                Some(Ok(Message::Text(text))) if text.contains("sync-available") => SocketEvent::Wakeup,
                Some(Ok(Message::Text(text))) => SocketEvent::Other(text.to_string()),
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(failure(error)),
            });
        }
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Http(response) => Failure::Status { status: response.status().as_u16(), retry_after: None },
        Error::Io(error) => Failure::Connect(error),
        _ => Failure::Closed,
    }
}
