//! What a notification says.

use crate::protocol::UserKey;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use std::sync::Arc;
use uuid::Uuid;

/// The channel that all replicas on one database share.
pub const CHANNEL: &str = "mana_sync";

/// Most bytes of a payload. PostgreSQL raises at 8,000.
pub const MAX_PAYLOAD: usize = 7_900;
/// Most bytes of a wake-up that says everything; a larger one leaves out what the listener can look up.
const MAX_ENTRY: usize = 2_000;
/// The version of the payload's form. A listener that meets a newer one reconciles instead.
const VERSION: u32 = 1;

/// A hint that something was stored: who should pull what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wakeup {
    pub user: UserKey,
    pub app: Arc<str>,
    /// The device that stored it: its own sessions need no waking.
    pub client: Option<Arc<str>>,
    /// The tables that changed; none where the list was too long to send, and is to be looked up.
    pub tables: Option<Vec<Arc<str>>>,
    /// The stretches of the log that this announces: each from the head before it, exclusive, to its end.
    pub stretches: Vec<(i64, i64)>,
}

impl Wakeup {
    /// The last position that this announces.
    pub fn last(&self) -> i64 {
        self.stretches.iter().map(|(_, last)| *last).max().unwrap_or(0)
    }
}

/// user, app, client, tables, stretches
type Entry<'a> = (String, &'a str, Option<&'a str>, Option<Vec<&'a str>>, &'a [(i64, i64)]);
type OwnedEntry = (String, Arc<str>, Option<Arc<str>>, Option<Vec<Arc<str>>>, Vec<(i64, i64)>);

#[derive(Deserialize)]
struct Payload {
    v: u32,
    w: Vec<OwnedEntry>,
}

/// A payload that this version cannot read.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error("the notification is not one of ours")]
    Malformed(#[source] serde_json::Error),
    #[error("the notification has the newer form {0}")]
    Version(u32),
    #[error("the notification names a user in an unknown form")]
    User,
}

/// Writes wake-ups into as few payloads as they fit in.
pub fn encode(wakeups: &[Wakeup]) -> Vec<String> {
    let head = format!("{{\"v\":{VERSION},\"w\":[");
    let mut payloads = Vec::new();
    let mut payload = head.clone();
    for wakeup in wakeups {
        let entry = encode_entry(wakeup);
        if payload.len() > head.len() && payload.len() + entry.len() + 3 > MAX_PAYLOAD {
            payloads.push(std::mem::replace(&mut payload, head.clone()) + "]}");
        }
        if payload.len() > head.len() {
            payload.push(',');
        }
        payload.push_str(&entry);
    }
    if payload.len() > head.len() {
        payloads.push(payload + "]}");
    }
    payloads
}

fn encode_entry(wakeup: &Wakeup) -> String {
    let user = URL_SAFE_NO_PAD.encode(wakeup.user.0.as_bytes());
    let tables = wakeup.tables.as_ref().map(|tables| tables.iter().map(|table| &**table).collect());
    let entry: Entry<'_> = (user.clone(), &wakeup.app, wakeup.client.as_deref(), tables, &wakeup.stretches);
    let whole = write(&entry);
    if whole.len() <= MAX_ENTRY {
        return whole;
    }
    // What remains is bounded: an app id has at most 255 bytes, six times that when escaped.
    let last = wakeup.last();
    write(&(user, &wakeup.app, None, None, &[(last, last)]))
}

fn write(entry: &Entry<'_>) -> String {
    // Strings and numbers always serialize.
    serde_json::to_string(entry).unwrap_or_default()
}

/// Reads a payload.
pub fn decode(payload: &str) -> Result<Vec<Wakeup>, PayloadError> {
    let payload: Payload = serde_json::from_str(payload).map_err(PayloadError::Malformed)?;
    if payload.v != VERSION {
        return Err(PayloadError::Version(payload.v));
    }
    payload.w.into_iter().map(decode_entry).collect()
}

fn decode_entry((user, app, client, tables, stretches): OwnedEntry) -> Result<Wakeup, PayloadError> {
    let bytes = URL_SAFE_NO_PAD.decode(user).map_err(|_| PayloadError::User)?;
    let user = UserKey(Uuid::from_slice(&bytes).map_err(|_| PayloadError::User)?);
    Ok(Wakeup { user, app, client, tables, stretches })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wakeup(user: &str, app: &str, client: Option<&str>, tables: &[&str]) -> Wakeup {
        Wakeup {
            user: UserKey::of(user),
            app: app.into(),
            client: client.map(Into::into),
            tables: Some(tables.iter().map(|table| (*table).into()).collect()),
            stretches: vec![(1_700_000_000_000_000, 1_700_000_000_000_002)],
        }
    }

    #[test]
    fn a_wake_up_that_is_too_large_is_left_to_be_looked_up() {
        let tables: Vec<String> = (0..5_000).map(|n| format!("table-{n}")).collect();
        let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
        let large = wakeup(&"u".repeat(5_000), &"\u{1}".repeat(255), Some(&"\u{1}".repeat(255)), &tables);
        let payloads = encode(std::slice::from_ref(&large));
        assert_eq!(payloads.len(), 1);
        assert!(payloads[0].len() <= MAX_PAYLOAD);
        let read = decode(&payloads[0]).unwrap();
        assert_eq!((read[0].user, &read[0].app, &read[0].tables), (large.user, &large.app, &None));
        assert_eq!(read[0].last(), large.last());
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for payload in ["", "todo", "{}", r#"{"v":1}"#, r#"{"v":2,"w":[]}"#, r#"{"v":1,"w":[["!","a",null,null,[]]]}"#]
        {
            assert!(decode(payload).is_err(), "{payload}");
        }
    }

    proptest! {
        #[test]
        fn wake_ups_survive_and_payloads_stay_under_the_limit(
            list in prop::collection::vec((".{0,60}", ".{1,255}", prop::option::of(".{1,255}"), prop::collection::vec(".{1,255}", 1..40)), 0..40)
        ) {
            let list: Vec<Wakeup> = list
                .iter()
                .map(|(user, app, client, tables)| {
                    let app: String = app.chars().take(60).collect();
                    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
                    wakeup(user, &app, client.as_deref(), &tables)
                })
                .collect();
            let payloads = encode(&list);
            prop_assert!(payloads.iter().all(|payload| payload.len() <= MAX_PAYLOAD));
            let read: Vec<Wakeup> = payloads.iter().flat_map(|payload| decode(payload).unwrap()).collect();
            prop_assert_eq!(read.len(), list.len());
            for (read, sent) in read.iter().zip(&list) {
                prop_assert_eq!((read.user, &read.app, read.last()), (sent.user, &sent.app, sent.last()));
                if read.tables.is_some() {
                    prop_assert_eq!(read, sent);
                }
            }
        }
    }
}
