//! The questions and answers of replicas, and their encoding on the channel.
//!
//! ```text
//! sealed( head as JSON | newline | a part of the body )         body: JSON, deflated
//! ```
//! A PostgreSQL payload has at most 7,999 bytes, so a longer body is split into parts. Everything is encrypted
//! ([`AdminKeys`]). Readers ignore unknown members, and answer unknown questions as such: replicas of different
//! versions understand each other.

use super::keys::{AdminKeys, KeyError};
use super::report::Outcome;
use crate::clock::Clock;
use flate2::Compression;
use flate2::read::{DeflateDecoder, DeflateEncoder};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::time::Duration;

/// Maximum size of a payload in bytes. PostgreSQL rejects 8,000 and more.
const MAX_PAYLOAD: usize = 7_999;
/// Room for the head of a message in bytes.
const HEAD: usize = 1_000;
/// Maximum size of a body before compression in bytes: the lists in an answer are bounded so that it stays below
/// ([`super::replica`]).
const MAX_BODY: u64 = 4 << 20;
/// Maximum number of parts of a body.
const MAX_PARTS: u32 = 512;
/// Maximum difference between clocks. Older messages are ignored.
pub const MAX_AGE: Duration = Duration::from_secs(120);

/// A replica's id, different in each run of its process.
pub type Instance = u64;

/// A question to all replicas, or to one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Question {
    /// Its status.
    Status,
    /// Its knowledge of a user, with at most this many sessions.
    User { user_id: String, sessions: usize },
    /// Its load in the last minutes.
    Load,
    /// The refused tokens.
    RefusedTokens,
    /// Execute an action.
    Do { action: Action },
    /// A question of a later version.
    #[serde(other)]
    Unknown,
}

/// An action that a replica executes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Action {
    /// End the sessions of a user, or of one of the user's devices.
    Disconnect { user_id: String, device: Option<String> },
    /// Refuse a token until then, in milliseconds since the epoch, and end the sessions that use it.
    RefuseToken {
        token_id: String,
        until: u64,
        /// True if the refusal is in the database. Replicas of earlier versions do not say.
        #[serde(default)]
        stored: bool,
    },
    /// Accept a refused token again.
    AcceptToken { token_id: String },
    /// Be not ready and have sessions leave, or be taken back.
    Drain { drained: bool },
    /// Trim logs now.
    Compact,
    /// Change the log filter.
    Log { filter: String },
    /// Set each user's pushes and pulls per second; 0 means no limit, `None` means unchanged.
    Rates { pushes: Option<u32>, pulls: Option<u32> },
    #[serde(other)]
    Unknown,
}

/// The head of a message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Head {
    pub kind: Kind,
    /// The id of the question, also in its answers.
    pub id: u64,
    pub from: Instance,
    /// The sender's name.
    pub name: String,
    /// When it was sent, in milliseconds since the epoch.
    pub at: u64,
    pub part: u32,
    pub parts: u32,
}

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    Question,
    Answer,
    /// The sender is going away.
    Goodbye,
    #[serde(other)]
    Unknown,
}

/// A question, and its addressee.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// The name of the replica that is asked; `None` means all.
    pub replica: Option<String>,
    pub question: Question,
}

/// One replica's answer to a question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    Status(Box<super::report::Replica>),
    User(super::report::UserOnReplica),
    Load(Vec<super::report::Second>),
    RefusedTokens(Vec<super::report::RefusedToken>),
    Done(Outcome),
}

impl Answer {
    /// Drops half of what it lists, and marks it as truncated. False if there is nothing to drop.
    pub fn shorten(&mut self) -> bool {
        let Answer::User(user) = self else { return false };
        if user.sessions.is_empty() && user.reads.is_empty() {
            return false;
        }
        user.truncated = true;
        user.sessions.truncate(user.sessions.len() / 2);
        user.reads.truncate(user.reads.len() / 2);
        true
    }
}

/// The reasons why a message cannot be encoded or read.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    #[error("it cannot be encoded or decoded as JSON")]
    Json(#[from] serde_json::Error),
    #[error("it cannot be compressed or decompressed")]
    Deflate(#[from] io::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("it is too long")]
    TooLong,
    #[error("its head is missing")]
    NoHead,
}

impl Head {
    /// True if it was sent just now, allowing for clocks that differ.
    pub fn is_recent(&self, clock: &Clock) -> bool {
        u128::from(self.at.abs_diff(clock.millis())) <= MAX_AGE.as_millis()
    }
}

/// Encodes a message as payloads.
pub fn write(keys: &AdminKeys, head: &Head, body: &impl Serialize) -> Result<Vec<String>, MessageError> {
    let json = serde_json::to_vec(body)?;
    if json.len() as u64 > MAX_BODY {
        return Err(MessageError::TooLong);
    }
    let mut deflated = Vec::new();
    DeflateEncoder::new(&json[..], Compression::fast()).read_to_end(&mut deflated)?;
    let parts: Vec<&[u8]> = deflated.chunks(AdminKeys::room(MAX_PAYLOAD) - HEAD).collect();
    let count = u32::try_from(parts.len()).ok().filter(|count| *count <= MAX_PARTS).ok_or(MessageError::TooLong)?;
    let payload = |(part, bytes): (u32, &&[u8])| {
        let mut message = serde_json::to_vec(&Head { part, parts: count, ..head.clone() })?;
        if message.len() >= HEAD {
            return Err(MessageError::TooLong);
        }
        message.push(b'\n');
        message.extend_from_slice(bytes);
        Ok(keys.seal(&message)?)
    };
    (0..).zip(&parts).map(payload).collect()
}

/// Decodes a payload: its head, and a part of a body. None if the sender does not have the token.
pub fn read(keys: &AdminKeys, payload: &str) -> Option<Result<(Head, Vec<u8>), MessageError>> {
    let mut message = keys.open(payload)?;
    let split = |message: &mut Vec<u8>| {
        let newline = message.iter().position(|byte| *byte == b'\n').ok_or(MessageError::NoHead)?;
        let head: Head = serde_json::from_slice(&message[..newline])?;
        if head.parts == 0 || head.parts > MAX_PARTS || head.part >= head.parts {
            return Err(MessageError::TooLong);
        }
        Ok((head, message.split_off(newline + 1)))
    };
    Some(split(&mut message))
}

/// Decodes a body from its joined parts.
pub fn read_body<T: DeserializeOwned>(deflated: &[u8]) -> Result<T, MessageError> {
    let mut json = Vec::new();
    DeflateDecoder::new(deflated).take(MAX_BODY + 1).read_to_end(&mut json)?;
    if json.len() as u64 > MAX_BODY {
        return Err(MessageError::TooLong);
    }
    Ok(serde_json::from_slice(&json)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn keys() -> AdminKeys {
        AdminKeys::new(&Secret::from("0123456789abcdef")).unwrap()
    }

    fn head() -> Head {
        let name = "\u{1}".repeat(128);
        Head { kind: Kind::Answer, id: u64::MAX, from: u64::MAX, name, at: Clock::system().millis(), part: 0, parts: 1 }
    }

    #[test]
    fn what_is_long_comes_in_parts_that_each_fit() {
        let (keys, body) = (keys(), (0..30_000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect::<Vec<_>>());
        let payloads = write(&keys, &head(), &body).unwrap();
        assert!(payloads.len() > 10, "{}", payloads.len());
        let mut deflated = Vec::new();
        for (n, payload) in payloads.iter().enumerate() {
            assert!(payload.len() <= MAX_PAYLOAD);
            let (head, part) = read(&keys, payload).unwrap().unwrap();
            assert_eq!((head.part as usize, head.parts as usize), (n, payloads.len()));
            deflated.extend(part);
        }
        assert_eq!(read_body::<Vec<u64>>(&deflated).unwrap(), body);
    }

    #[test]
    fn what_is_far_too_long_is_neither_written_nor_read() {
        let body = "x".repeat(MAX_BODY as usize);
        assert!(matches!(write(&keys(), &head(), &body), Err(MessageError::TooLong)));
        let mut bomb = Vec::new();
        DeflateEncoder::new(io::repeat(b' ').take(MAX_BODY * 4), Compression::best()).read_to_end(&mut bomb).unwrap();
        assert!(matches!(read_body::<serde_json::Value>(&bomb), Err(MessageError::TooLong)));
    }

    #[test]
    fn an_answer_that_is_too_long_is_sent_with_fewer_sessions_and_says_so() {
        let device = Some("\u{1}".repeat(1_000));
        let session = super::super::report::Session { device, ..Default::default() };
        let user =
            super::super::report::UserOnReplica { sessions: vec![session; 2_000], total: 2_000, ..Default::default() };
        let mut answer = Answer::User(user);
        assert!(matches!(write(&keys(), &head(), &answer), Err(MessageError::TooLong)));
        while write(&keys(), &head(), &answer).is_err() {
            assert!(answer.shorten());
        }
        let Answer::User(sent) = answer else { unreachable!() };
        assert!(sent.truncated && sent.total == 2_000 && sent.sessions.len() >= 250, "{}", sent.sessions.len());
        assert!(!Answer::RefusedTokens(Vec::new()).shorten());
    }

    #[test]
    fn what_later_versions_ask_is_read_as_unknown() {
        let asked: Asked =
            serde_json::from_str(r#"{"replica":null,"question":{"kind":"weather","at":"sea"}}"#).unwrap();
        assert!(matches!(asked.question, Question::Unknown));
        let asked: Asked =
            serde_json::from_str(r#"{"replica":"a","question":{"kind":"do","action":{"action":"dance"}}}"#).unwrap();
        assert!(matches!(asked.question, Question::Do { action: Action::Unknown }));
        let asked: Asked =
            serde_json::from_str(r#"{"replica":"a","question":{"kind":"status","more":1},"new":true}"#).unwrap();
        assert!(matches!(asked.question, Question::Status));
    }

    #[test]
    fn nobody_elses_payloads_are_read() {
        let keys = keys();
        assert!(read(&keys, "hello").is_none());
        let others = AdminKeys::new(&Secret::from("fedcba9876543210")).unwrap();
        assert!(read(&keys, &write(&others, &head(), &1).unwrap()[0]).is_none());
        let headless = keys.seal(b"no newline").unwrap();
        assert!(matches!(read(&keys, &headless), Some(Err(MessageError::NoHead))));
    }
}
