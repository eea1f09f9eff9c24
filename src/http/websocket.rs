//! `GET /ws` and `GET /ws/{appId}`: the transport of [`WebSocketSession`].

use super::AppState;
use super::connection::{ClientPlace, Connection, address_of};
use super::error::ApiError;
use super::extract::PathApp;
use super::meter::{MAX_UNAUTHENTICATED_MESSAGE, Meter, Overrun};
use super::server::MAX_MESSAGE;
use super::transport::Transport;
use crate::protocol::close::CloseReason;
use crate::protocol::websocket::Text;
use crate::session::websocket::{Action, WebSocketSession};
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Maximum size of a frame without its payload, in bytes.
const FRAME_HEAD: usize = 14;
/// Bytes read from each connection at once. Messages are small; a larger one makes the buffer grow, and since the
/// buffer always has room for as much again, it then stays twice as large.
const READ_BUFFER: usize = 256;
/// A client that has answered none of this many pings by the time of the next one is gone.
const UNANSWERED_PINGS: u32 = 2;
/// Maximum time for a client to answer a close, and the maximum number of bytes it may still send until then.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_DISCARDED: u64 = 16 << 20;

type Socket = WebSocketStream<Transport>;

pub(super) async fn connect(
    State(state): State<AppState>,
    PathApp(app): PathApp,
    mut request: Request,
) -> Result<Response, ApiError> {
    let accept = accept_key(request.headers()).ok_or(ApiError::UpgradeRequired)?;
    let connection = request.extensions().get::<Connection>().cloned();
    let client = request.extensions().get::<ClientPlace>().cloned();
    let upgrade = hyper::upgrade::on(&mut request);
    let address = address_of(request.extensions());
    let place = state.sessions.admit_unauthenticated(address).ok_or(ApiError::Busy)?;
    // Boxed so that it exists only once: otherwise each future it is moved through would reserve room for it.
    let session = Box::new(WebSocketSession::new(state.sessions.clone(), app).coming_from(address, place));
    let tracker = state.shutdown.connections.clone();
    tracker.spawn(async move {
        // They live as long as the socket, which counts against the limits of connections.
        let _places = (connection, client);
        match upgrade.await {
            Ok(upgraded) => {
                let socket = Box::pin(open(upgraded)).await;
                let reason = run(socket, session).await;
                state.sessions.count_close(reason);
            }
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "an upgrade failed"),
        }
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, "websocket"), (SEC_WEBSOCKET_ACCEPT, accept.as_str())];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Returns the answer to the client's key (RFC 6455, section 4.2); none if this is not a WebSocket handshake.
fn accept_key(headers: &HeaderMap) -> Option<String> {
    let has = |name: HeaderName, token: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(token))
    };
    let is_handshake = has(CONNECTION, "upgrade") && has(UPGRADE, "websocket") && has(SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_handshake)?;
    Some(derive_accept_key(key.as_bytes()))
}

async fn open(upgraded: Upgraded) -> Box<Socket> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    // Every connection comes from our own server, which only makes transports.
    match upgraded.downcast::<TokioIo<Transport>>() {
        Ok(parts) => {
            let mut transport = parts.io.into_inner();
            transport.connection().meter().begin_messages();
            // Copied, because it is next to nothing in a buffer of 8 KiB.
            transport.read_again(&parts.read_buf);
            Box::new(WebSocketStream::from_raw_socket(transport, Role::Server, Some(config)).await)
        }
        Err(_) => unreachable!("connections are served as TokioIo<Transport>"),
    }
}

/// Runs a session on its socket, from the upgrade to the end.
async fn run(mut socket: Box<Socket>, mut session: Box<WebSocketSession>) -> CloseReason {
    let connection = socket.get_ref().connection().clone();
    // Pings are counted instead of time: a replica that was held up itself has not pinged in the meantime.
    let mut unanswered = 0;
    loop {
        let action = tokio::select! {
            message = socket.next() => {
                unanswered = 0;
                match message {
                    Some(Ok(Message::Close(_))) | None => return Box::pin(leave(socket)).await,
                    // Boxed like everything rare, so that an idle socket reserves no room for it.
                    Some(Ok(message)) => Box::pin(receive(connection.meter(), &mut session, message)).await,
                    Some(Err(error)) => match reason_for(&error, connection.meter().overrun()) {
                        Some(reason) => Action::close(reason),
                        None => return CloseReason::ClientLeft,
                    },
                }
            }
            action = session.next() => action,
        };
        match action {
            Action::Ping => {
                let is_silent = unanswered >= UNANSWERED_PINGS;
                unanswered += 1;
                if is_silent || Box::pin(socket.send(Message::Ping(Default::default()))).await.is_err() {
                    return CloseReason::Unresponsive;
                }
            }
            Action::Send(messages) => {
                if Box::pin(send(&mut socket, messages)).await.is_err() {
                    return CloseReason::Unresponsive;
                }
            }
            Action::Close { reason, final_message } => {
                drop(session);
                // A client that cannot be told has gone, or will see the connection end.
                let _ = Box::pin(send(&mut socket, final_message.into_iter().collect())).await;
                Box::pin(close(socket, reason)).await;
                return reason;
            }
        }
    }
}

/// Answers a message. Anything but text only shows that the client is there.
async fn receive(meter: &Meter, session: &mut WebSocketSession, message: Message) -> Action {
    let bytes = message.len();
    match &message {
        Message::Text(_) | Message::Binary(_) => meter.end_message(),
        _ => meter.pass(bytes + FRAME_HEAD),
    }
    if bytes > MAX_UNAUTHENTICATED_MESSAGE && !session.is_authenticated() {
        return Action::close(CloseReason::TooLarge);
    }
    let Message::Text(text) = message else { return Action::Send(vec![]) };
    let action = session.receive(&text).await;
    if let Some((budget, user)) = session.memory() {
        meter.authenticated(budget, user);
    }
    action
}

async fn send(socket: &mut Socket, messages: Vec<Text>) -> Result<(), Error> {
    for message in messages {
        socket.feed(Message::text(message)).await?;
    }
    socket.flush().await
}

/// Returns the reason to close for; none if the connection cannot be closed cleanly any more.
fn reason_for(error: &Error, overrun: Option<Overrun>) -> Option<CloseReason> {
    match error {
        Error::Io(_) => overrun.map(|overrun| match overrun {
            Overrun::TooLarge => CloseReason::TooLarge,
            Overrun::NoMemory => CloseReason::Unavailable,
        }),
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Some(CloseReason::TooLarge),
        // The client dropped its connection without a close frame.
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) | Error::Utf8(_) | Error::Capacity(_) => Some(CloseReason::ProtocolError),
        _ => None,
    }
}

/// The client closes; the reply is waiting to be written.
async fn leave(mut socket: Box<Socket>) -> CloseReason {
    // Whether it arrives or not, the client has gone.
    let _ = timeout(CLOSE_TIMEOUT, socket.flush()).await;
    CloseReason::ClientLeft
}

/// Closes, and lets the client read why: dropping a connection with unread input resets it, and a reset loses the close
/// frame.
async fn close(mut socket: Box<Socket>, reason: CloseReason) {
    let deadline = Instant::now() + CLOSE_TIMEOUT;
    let frame = CloseFrame { code: reason.code().into(), reason: reason.text().into() };
    let connection = socket.get_ref().connection().clone();
    connection.meter().begin_closing();
    let closing = async {
        socket.send(Message::Close(Some(frame))).await?;
        // Whatever is too long, or cannot be read as messages, is read as bytes below.
        while let Some(Ok(_)) = socket.next().await {
            connection.meter().end_message();
        }
        connection.meter().discard();
        let transport = socket.get_mut();
        transport.shutdown().await?;
        tokio::io::copy(&mut transport.take(MAX_DISCARDED), &mut tokio::io::sink()).await?;
        Ok::<_, Error>(())
    };
    // In time or not, answered or not, the connection ends here.
    let _ = timeout_at(deadline, closing).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    /// The size of a function's future in bytes.
    fn future_size<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_socket_takes_little() {
        // Each is an allocation of its own, in size classes of 256 bytes for the task and 64 for the others.
        let (task, socket, session) = (future_size(run), size_of::<Socket>(), size_of::<WebSocketSession>());
        assert!(task <= 1_064 && socket <= 384 && session <= 256, "{task}, {socket} and {session} bytes");
    }
}
