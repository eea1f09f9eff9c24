//! The messages of a WebSocket.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A message to be sent. Clones share it.
pub type Text = tokio_tungstenite::tungstenite::Utf8Bytes;

/// A message from a client.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ClientMessage<'a> {
    /// Authenticates; later, renews the token.
    #[serde(rename_all = "camelCase")]
    Auth {
        /// The token.
        #[serde(default)]
        token: Cow<'a, str>,
        /// The device, whose own changes do not wake it.
        client_id: Option<Cow<'a, str>>,
    },
    /// Asks for a `pong`.
    Ping,
}

impl<'a> ClientMessage<'a> {
    /// Parses a message; none if it is unknown or malformed.
    pub fn read(text: &'a str) -> Option<ClientMessage<'a>> {
        // By itself, an enum is also deserialized from an array.
        if !text.trim_start().starts_with('{') {
            return None;
        }
        serde_json::from_str(text).ok()
    }
}

/// A message from the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ServerMessage<'a> {
    /// The token is accepted.
    AuthOk,
    /// The answer to a `ping`.
    Pong,
    /// There is something to pull.
    #[serde(rename_all = "camelCase")]
    SyncAvailable {
        /// The app.
        app_id: &'a str,
        /// The tables.
        tables: Vec<&'a str>,
    },
    /// The session ends.
    Error {
        /// The reason, for programs.
        code: ErrorCode,
        /// The reason, for people.
        message: &'a str,
    },
}

/// The codes of [`ServerMessage::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The token is not valid.
    InvalidToken,
    /// The token has expired.
    TokenExpired,
}

impl ServerMessage<'_> {
    /// Encodes the message as JSON.
    pub fn encode(&self) -> String {
        // Strings, enums and lists of strings always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_documented_form() {
        let wake_up = ServerMessage::SyncAvailable { app_id: "todo", tables: vec!["tasks"] };
        for (message, json) in [
            (ServerMessage::AuthOk, r#"{"type":"auth-ok"}"#),
            (ServerMessage::Pong, r#"{"type":"pong"}"#),
            (wake_up, r#"{"type":"sync-available","appId":"todo","tables":["tasks"]}"#),
            (
                ServerMessage::Error { code: ErrorCode::InvalidToken, message: "m" },
                r#"{"type":"error","code":"invalid_token","message":"m"}"#,
            ),
            (
                ServerMessage::Error { code: ErrorCode::TokenExpired, message: "m" },
                r#"{"type":"error","code":"token_expired","message":"m"}"#,
            ),
        ] {
            assert_eq!(message.encode(), json);
        }
    }

    #[test]
    fn unknown_or_malformed_messages_are_none() {
        for text in [
            "",
            "{",
            "[]",
            "[\"ping\"]",
            "null",
            r#"{"type":"subscribe"}"#,
            r#"{"token":"x"}"#,
            r#"{"type":"auth","token":7}"#,
        ] {
            assert_eq!(ClientMessage::read(text), None, "{text}");
        }
        assert_eq!(ClientMessage::read(r#"{"type":"ping","extra":1}"#), Some(ClientMessage::Ping));
        assert_eq!(
            ClientMessage::read(r#"{"type":"auth","token":"a.b","clientId":"c"}"#),
            Some(ClientMessage::Auth { token: "a.b".into(), client_id: Some("c".into()) })
        );
        assert_eq!(
            ClientMessage::read(r#"{"type":"auth"}"#),
            Some(ClientMessage::Auth { token: "".into(), client_id: None })
        );
    }
}
