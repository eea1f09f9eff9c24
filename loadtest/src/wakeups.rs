//! The wake-up WebSocket as a client uses it: authenticates in band, then waits to be told to pull.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::transport::{TransportError, url_of};

/// The reasons why no wake-up came.
#[derive(Debug, thiserror::Error)]
pub enum WakeupError {
    /// The socket has no usable address.
    #[error("the socket has no usable address")]
    Target(#[source] TransportError),
    /// The base URL's scheme has no WebSocket counterpart.
    #[error("{url} can't be a WebSocket address")]
    Scheme {
        /// The URL.
        url: String,
    },
    /// The WebSocket broke.
    #[error("the WebSocket broke")]
    Socket(#[source] Box<tungstenite::Error>),
    /// A message did not arrive in time.
    #[error("no message within {within:?}")]
    Late {
        /// The time limit.
        within: Duration,
        /// The cause.
        #[source]
        source: Elapsed,
    },
    /// A message is not part of the protocol.
    #[error("not a message of the protocol: {text}")]
    Message {
        /// The message.
        text: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The token was not accepted.
    #[error("expected auth-ok, got {got:?}")]
    NotAuthenticated {
        /// The message received instead of `auth-ok`.
        got: WakeMessage,
    },
}

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum WakeMessage {
    /// The token is accepted.
    AuthOk,
    /// The answer to a ping.
    Pong,
    /// Something was stored: pull.
    SyncAvailable {
        /// The app.
        app_id: String,
        /// The tables.
        tables: Vec<String>,
    },
    /// An error; a close follows.
    Error {
        /// The code, for programs.
        code: String,
        /// The message, for people.
        #[serde(default)]
        message: String,
    },
    /// The socket was closed; without a code if the connection just ended.
    #[serde(skip)]
    Closed {
        /// The close code.
        code: Option<u16>,
        /// The reason given.
        reason: String,
    },
}

/// A WebSocket.
pub struct Wakeups {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

const SETUP: Duration = Duration::from_secs(10);

impl Wakeups {
    /// Opens `/ws/{app}`, or `/ws` for all apps, and authenticates. With a `client_id` the device's own pushes don't
    /// wake it.
    pub async fn connect(
        base: &str,
        app: Option<&str>,
        token: &str,
        client_id: Option<&str>,
    ) -> Result<Self, WakeupError> {
        let mut wakeups = Self::open(base, app).await?;
        wakeups.authenticate(token, client_id).await?;
        match wakeups.next(SETUP).await? {
            WakeMessage::AuthOk => Ok(wakeups),
            got => Err(WakeupError::NotAuthenticated { got }),
        }
    }

    /// Opens the socket and sends nothing yet.
    pub async fn open(base: &str, app: Option<&str>) -> Result<Self, WakeupError> {
        let path: Vec<&str> = std::iter::once("ws").chain(app).collect();
        let mut url = url_of(base, &path).map_err(WakeupError::Target)?;
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        if url.set_scheme(scheme).is_err() {
            return Err(WakeupError::Scheme { url: url.into() });
        }
        let connected = timeout(SETUP, connect_async(url.as_str())).await;
        let (socket, _) = connected.map_err(|source| WakeupError::Late { within: SETUP, source })?.map_err(broken)?;
        Ok(Self { socket })
    }

    /// Sends `auth`, at first or to extend the session. The answer is the next message.
    pub async fn authenticate(&mut self, token: &str, client_id: Option<&str>) -> Result<(), WakeupError> {
        let mut message = serde_json::json!({"type": "auth", "token": token});
        if let Some(client_id) = client_id {
            message["clientId"] = client_id.into();
        }
        self.send(&message.to_string()).await
    }

    /// Sends any text.
    pub async fn send(&mut self, text: &str) -> Result<(), WakeupError> {
        self.send_message(Message::text(text)).await
    }

    /// Sends any message.
    pub async fn send_message(&mut self, message: Message) -> Result<(), WakeupError> {
        let sent = timeout(SETUP, self.socket.send(message)).await;
        sent.map_err(|source| WakeupError::Late { within: SETUP, source })?.map_err(broken)
    }

    /// Returns the next message, which must arrive `within` that time. A close is a message too, and the last one.
    pub async fn next(&mut self, within: Duration) -> Result<WakeMessage, WakeupError> {
        timeout(within, self.receive()).await.map_err(|source| WakeupError::Late { within, source })?
    }

    async fn receive(&mut self) -> Result<WakeMessage, WakeupError> {
        let ended = || WakeMessage::Closed { code: None, reason: String::new() };
        loop {
            match self.socket.next().await {
                None => return Ok(ended()),
                Some(Ok(Message::Close(frame))) => {
                    return Ok(frame.map_or_else(ended, |frame| WakeMessage::Closed {
                        code: Some(frame.code.into()),
                        reason: frame.reason.to_string(),
                    }));
                }
                Some(Ok(Message::Text(text))) => {
                    let message = serde_json::from_str(&text);
                    return message.map_err(|source| WakeupError::Message { text: text.to_string(), source });
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(broken(error)),
            }
        }
    }
}

fn broken(error: tungstenite::Error) -> WakeupError {
    WakeupError::Socket(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_the_protocol_shows_them() {
        let read = |text: &str| serde_json::from_str::<WakeMessage>(text).unwrap();
        assert_eq!(read(r#"{"type":"auth-ok"}"#), WakeMessage::AuthOk);
        let expected = WakeMessage::SyncAvailable { app_id: "todo".to_owned(), tables: vec!["tasks".to_owned()] };
        assert_eq!(read(r#"{"type":"sync-available","appId":"todo","tables":["tasks"]}"#), expected);
        let error = read(r#"{"type":"error","code":"invalid_token","message":"sign in again"}"#);
        assert!(matches!(error, WakeMessage::Error { code, .. } if code == "invalid_token"));
    }
}
