//! Encodes and decodes notifications.
//!
//! ```text
//! m2 | signature, 16 | length, 4 | what the replica says of itself | entry | entry | …
//!                                                   entry: user, 22 | length, 4 | what was stored
//! ```
//! Lengths are in bytes, as hexadecimal digits. The user's key comes first and has a fixed width, so a replica finds
//! out with one look-up whether a push concerns anybody here, and otherwise skips it without reading it. The parts in
//! between are JSON; members that a reader does not know are ignored. The signature covers everything after it
//! ([`ChannelKeys`]).

use super::channel_key::{ChannelKeys, MAC_BYTES, Signature};
use super::wakeup::{MAX_PUSHES, Wakeup};
use crate::protocol::UserKey;
use crate::telemetry::traces::PushSpan;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::types::Type;
use uuid::Uuid;

/// The channel shared by all replicas on one database.
pub const CHANNEL: &str = "mana_sync";
/// Sends one notification for each payload, on a channel. A notification need not survive a crash of the database, so its
/// commit is not flushed; what it announces has been. If another transaction holds the lock that every NOTIFY needs, this
/// fails before its sender gives up: otherwise the database would keep the connection until the lock is free.
pub const NOTIFY: &str =
    "select set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '2000', true),
    pg_notify($1, payload) from unnest($2) as payload";
/// The types of its parameters: channel and payloads.
pub const NOTIFY_TYPES: [Type; 2] = [Type::TEXT, Type::TEXT_ARRAY];
/// Maximum size of a payload in bytes. PostgreSQL rejects 8,000 and more.
pub const MAX_PAYLOAD: usize = 7_900;

/// The prefix of payloads of this form. A replica that meets another form asks the database instead.
const FORM: &str = "m2";
const SIGNATURE_WIDTH: usize = 16;
const LENGTH_WIDTH: usize = 4;
const USER_WIDTH: usize = 22;
/// Maximum size of a complete entry in bytes; a larger one omits what the listener can look up.
const MAX_ENTRY: usize = 2_000;

/// The reasons why a payload cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The notification is not one of ours.
    #[error("the notification is not one of ours")]
    Malformed,
    /// The notification, or a part of it, is not one of ours.
    #[error("the notification, or a part of it, is not one of ours")]
    Json(#[source] serde_json::Error),
    /// The notification has a form that this version does not know.
    #[error("the notification has the unknown form {0}")]
    Version(u32),
    /// The notification names a user in an unknown form.
    #[error("the notification names a user in an unknown form")]
    User,
}

/// A user's entry: what was stored.
#[derive(Serialize)]
struct Body<'a> {
    a: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    c: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    t: Option<&'a [Arc<str>]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    r: &'a [(i64, i64)],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    p: &'a [String],
}

/// The decoded entry: app, client, tables, ranges and the spans of sampled pushes.
#[derive(Deserialize)]
struct OwnedBody {
    a: Arc<str>,
    #[serde(default)]
    c: Option<Arc<str>>,
    #[serde(default)]
    t: Option<Vec<Arc<str>>>,
    #[serde(default)]
    r: Vec<(i64, i64)>,
    #[serde(default)]
    p: Vec<String>,
}

/// Encodes wake-ups into as few payloads as possible, with this replica's own message in the first of them.
pub fn encode<'a>(
    keys: &ChannelKeys,
    said: Option<&str>,
    wakeups: impl IntoIterator<Item = &'a Wakeup>,
) -> Vec<String> {
    let mut payloads = Vec::new();
    let mut writer = Writer::new(said.unwrap_or_default());
    for wakeup in wakeups {
        let entry = encode_entry(wakeup);
        if !writer.has_room(&entry) {
            payloads.push(std::mem::replace(&mut writer, Writer::new("")).finish(keys));
        }
        writer.add(&entry);
    }
    if !writer.is_empty {
        payloads.push(writer.finish(keys));
    }
    payloads
}

/// A payload being written.
struct Writer {
    text: String,
    is_empty: bool,
}

impl Writer {
    fn new(said: &str) -> Writer {
        let mut text = String::with_capacity(1 << 10);
        text.extend([FORM, &" ".repeat(SIGNATURE_WIDTH)]);
        let _ = write!(text, "{:04x}{said}", said.len());
        Writer { text, is_empty: said.is_empty() }
    }

    /// True if an entry still fits. The first one always does.
    fn has_room(&self, entry: &str) -> bool {
        self.is_empty || self.text.len() + entry.len() <= MAX_PAYLOAD
    }

    fn add(&mut self, entry: &str) {
        self.text.push_str(entry);
        self.is_empty = false;
    }

    fn finish(mut self, keys: &ChannelKeys) -> String {
        let begin = FORM.len() + SIGNATURE_WIDTH;
        let signature = URL_SAFE_NO_PAD.encode(keys.sign(&self.text[begin..]));
        self.text.replace_range(FORM.len()..begin, &signature);
        self.text
    }
}

fn encode_entry(wakeup: &Wakeup) -> String {
    let last = wakeup.last();
    let body = encode_body(wakeup, &wakeup.ranges, &[(last, last)]);
    format!("{}{:04x}{body}", encode_user(wakeup.user), body.len())
}

/// Encodes a wake-up for a user, without the range that was stored.
pub(super) fn encode_without_range(wakeup: &Wakeup) -> String {
    format!("{}{}", encode_user(wakeup.user), encode_body(wakeup, &[], &[]))
}

fn encode_user(user: UserKey) -> String {
    URL_SAFE_NO_PAD.encode(user.0.as_bytes())
}

/// Encodes what was stored, in these ranges; or, if that is too long, only what is needed to look it up.
fn encode_body(wakeup: &Wakeup, ranges: &[(i64, i64)], short: &[(i64, i64)]) -> String {
    let pushes: Vec<String> = wakeup.pushes.iter().map(ToString::to_string).collect();
    let whole =
        Body { a: &wakeup.app, c: wakeup.client.as_deref(), t: wakeup.tables.as_deref(), r: ranges, p: &pushes };
    let body = write_body(&whole);
    // The rest is bounded: an app id has at most 255 bytes, six times that when escaped.
    if body.len() > MAX_ENTRY { write_body(&Body { c: None, t: None, r: short, ..whole }) } else { body }
}

fn write_body(body: &Body<'_>) -> String {
    // Strings and numbers always serialize.
    serde_json::to_string(body).unwrap_or_default()
}

/// A payload, parsed only as far as necessary. Nothing is copied.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    signature: &'a str,
    signed: &'a str,
    said: &'a str,
    entries: &'a str,
}

impl<'a> Payload<'a> {
    /// Parses a payload; none if it does not have this form at all.
    pub fn parse(text: &'a str) -> Option<Result<Payload<'a>, PayloadError>> {
        let rest = text.strip_prefix(FORM)?;
        let parse = || {
            let (signature, signed) = rest.split_at_checked(SIGNATURE_WIDTH)?;
            let (said, entries) = take(signed)?;
            Some(Payload { signature, signed, said, entries })
        };
        Some(parse().ok_or(PayloadError::Malformed))
    }

    /// True if it is signed by a replica.
    pub fn is_signed(&self, keys: &ChannelKeys) -> bool {
        self.verified(keys).is_some()
    }

    /// Returns its signature if that is a replica's.
    pub(super) fn verified(&self, keys: &ChannelKeys) -> Option<Signature> {
        let mut signature = [0; MAC_BYTES];
        let decoded = URL_SAFE_NO_PAD.decode_slice(self.signature, &mut signature);
        (decoded == Ok(MAC_BYTES) && keys.verify(self.signed, &signature)).then_some(signature)
    }

    /// Returns when about the first of what it announces was stored, since 1970; none if it announces nothing, or
    /// nothing that can be read.
    pub(super) fn date(&self) -> Option<Duration> {
        let entry = self.entries().next()?.ok()?;
        date_of(entry.read().ok()?.last())
    }

    /// Returns the replica's own message, if there is one.
    pub fn said(&self) -> Option<&'a str> {
        (!self.said.is_empty()).then_some(self.said)
    }

    /// Iterates over the entries. Ends after the first that cannot be read.
    pub fn entries(&self) -> Entries<'a> {
        Entries { rest: self.entries }
    }
}

/// The entries of a payload.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a str,
}

/// The entry of one user, not decoded yet.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The user whose devices are woken.
    pub user: UserKey,
    body: &'a str,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, PayloadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let text = std::mem::take(&mut self.rest);
        let Some((user, rest)) = text.split_at_checked(USER_WIDTH) else { return Some(Err(PayloadError::Malformed)) };
        let Some(user) = read_user(user) else { return Some(Err(PayloadError::User)) };
        let Some((body, rest)) = take(rest) else { return Some(Err(PayloadError::Malformed)) };
        self.rest = rest;
        Some(Ok(Entry { user, body }))
    }
}

impl Entry<'_> {
    /// Decodes the entry.
    pub fn read(&self) -> Result<Wakeup, PayloadError> {
        read_body(self.user, self.body)
    }
}

/// Decodes a user's entry.
pub(super) fn read_body(user: UserKey, body: &str) -> Result<Wakeup, PayloadError> {
    let OwnedBody { a, c, t, r, p } = serde_json::from_str(body).map_err(PayloadError::Json)?;
    let pushes = p.iter().take(MAX_PUSHES).filter_map(|push| PushSpan::parse(push)).collect();
    Ok(Wakeup { user, app: a, client: c, tables: t.map(Into::into), ranges: r, pushes })
}

/// Returns the time of a position, since 1970.
pub(super) fn date_of(position: i64) -> Option<Duration> {
    Some(Duration::from_micros(u64::try_from(position).ok().filter(|position| *position > 0)?))
}

/// Splits a user's key from what follows it.
pub(super) fn split_user(text: &str) -> Option<(UserKey, &str)> {
    let (user, rest) = text.split_at_checked(USER_WIDTH)?;
    Some((read_user(user)?, rest))
}

/// Splits a length-prefixed part from what follows it.
fn take(text: &str) -> Option<(&str, &str)> {
    let (length, rest) = text.split_at_checked(LENGTH_WIDTH)?;
    rest.split_at_checked(usize::from_str_radix(length, 16).ok()?)
}

/// Decodes a user's key from its 22 characters.
pub(super) fn read_user(text: &str) -> Option<UserKey> {
    // One byte more than a key: the decoder needs room for what it may have to check.
    let mut bytes = [0; 18];
    let read = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    Some(UserKey(Uuid::from_slice(&bytes[..read]).ok()?))
}

#[cfg(test)]
mod tests;
