//! `mana-dev listen`: shows the messages of a WebSocket, for machines without a WebSocket tool.

use std::{process::ExitCode, time::Duration};

use chrono::Local;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::time::interval;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, Message},
};

use super::args::ListenArgs;
use mana_dev::{DevError, SigningKey, say::say};

const TOKEN_TTL: Duration = Duration::from_secs(24 * 60 * 60);
const PING_EVERY: Duration = Duration::from_secs(20);

/// Ends when the server closes, or on Ctrl-C.
pub async fn listen(args: ListenArgs) -> Result<ExitCode, DevError> {
    let token = match &args.token {
        Some(token) => token.clone(),
        None => SigningKey::load(&args.who.key)?.token(&args.who.user, TOKEN_TTL),
    };
    let mut auth = json!({ "type": "auth", "token": token });
    if let Some(client) = &args.client_id {
        auth["clientId"] = json!(client);
    }
    converse(&args.url, auth.to_string())
        .await
        .map_err(|source| DevError::WebSocket { url: args.url.clone(), source: Box::new(source) })?;
    Ok(ExitCode::SUCCESS)
}

async fn converse(url: &str, auth: String) -> Result<(), Error> {
    let (mut socket, _) = connect_async(url).await?;
    stamped("connected");
    socket.send(Message::text(auth)).await?;
    let mut pings = interval(PING_EVERY);
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            _ = pings.tick() => {
                socket.send(Message::text(r#"{"type":"ping"}"#)).await?;
                continue;
            }
        };
        match message.transpose()? {
            // The answers to our own pings are not shown.
            Some(Message::Text(text)) if text.contains(r#""pong""#) => {}
            Some(Message::Text(text)) => stamped(text.as_str()),
            Some(Message::Close(Some(frame))) => {
                stamped(&format!("closed by the server: {frame}"));
            }
            Some(_) => {}
            None => {
                stamped("disconnected");
                return Ok(());
            }
        }
    }
}

fn stamped(what: &str) {
    say(format_args!("{}  {what}", Local::now().format("%H:%M:%S%.3f")));
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_tungstenite::accept_async;

    use super::*;

    #[tokio::test]
    async fn it_authenticates_and_ends_when_the_server_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = accept_async(stream).await.unwrap();
            let auth = socket.next().await.unwrap().unwrap();
            socket.send(Message::text(r#"{"type":"auth-ok"}"#)).await.unwrap();
            socket.close(None).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
            auth.into_text().unwrap().to_string()
        });
        converse(&url, "hello".into()).await.unwrap();
        assert_eq!(server.await.unwrap(), "hello");
    }
}
