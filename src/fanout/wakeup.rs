//! What a notification says.

use crate::protocol::UserKey;
use crate::telemetry::traces::PushSpan;
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
/// Sampled pushes that one wake-up names at most; deliveries are not linked to further ones.
pub const MAX_PUSHES: usize = 8;
/// Most bytes of a payload around its entries; around an entry's pushes, comma and index; and of a push.
const FRAME_BYTES: usize = 32;
const TRACE_BYTES: usize = 16;
const PUSH_BYTES: usize = 52;
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
    /// The spans of the sampled pushes among those that this is about, [`MAX_PUSHES`] at most.
    pub pushes: Vec<PushSpan>,
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

/// The spans of an entry's sampled pushes stand beside the entries, with the entry's index: replicas that know
/// nothing of them pass over a member that they do not know, and would not over a longer entry.
#[derive(Deserialize)]
struct Payload {
    v: u32,
    w: Vec<OwnedEntry>,
    #[serde(default)]
    t: Vec<(usize, Vec<String>)>,
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
    let mut payloads = Vec::new();
    let mut writer = Writer::default();
    for wakeup in wakeups {
        let entry = encode_entry(wakeup);
        if !writer.has_room(&entry, wakeup.pushes.len()) {
            payloads.push(std::mem::take(&mut writer).finish());
        }
        writer.add(&entry, &wakeup.pushes);
    }
    if writer.count > 0 {
        payloads.push(writer.finish());
    }
    payloads
}

/// One payload in the making.
#[derive(Default)]
struct Writer {
    count: usize,
    entries: String,
    traces: String,
}

impl Writer {
    /// Whether an entry and so many pushes still fit. The first always does.
    fn has_room(&self, entry: &str, pushes: usize) -> bool {
        let more = entry.len() + if pushes > 0 { TRACE_BYTES + pushes * PUSH_BYTES } else { 0 };
        self.count == 0 || FRAME_BYTES + self.entries.len() + self.traces.len() + more <= MAX_PAYLOAD
    }

    fn add(&mut self, entry: &str, pushes: &[PushSpan]) {
        let separator = if self.count > 0 { "," } else { "" };
        self.entries.extend([separator, entry]);
        if !pushes.is_empty() {
            let separator = if self.traces.is_empty() { "" } else { "," };
            let names: Vec<String> = pushes.iter().map(|push| format!("\"{push}\"")).collect();
            self.traces.push_str(&format!("{separator}[{},[{}]]", self.count, names.join(",")));
        }
        self.count += 1;
    }

    fn finish(self) -> String {
        match self.traces.as_str() {
            "" => format!("{{\"v\":{VERSION},\"w\":[{}]}}", self.entries),
            traces => format!("{{\"v\":{VERSION},\"w\":[{}],\"t\":[{traces}]}}", self.entries),
        }
    }
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
    let mut wakeups: Vec<Wakeup> = payload.w.into_iter().map(decode_entry).collect::<Result<_, _>>()?;
    for (index, pushes) in payload.t {
        if let Some(wakeup) = wakeups.get_mut(index) {
            wakeup.pushes = pushes.iter().take(MAX_PUSHES).filter_map(|push| PushSpan::parse(push)).collect();
        }
    }
    Ok(wakeups)
}

fn decode_entry((user, app, client, tables, stretches): OwnedEntry) -> Result<Wakeup, PayloadError> {
    let bytes = URL_SAFE_NO_PAD.decode(user).map_err(|_| PayloadError::User)?;
    let user = UserKey(Uuid::from_slice(&bytes).map_err(|_| PayloadError::User)?);
    Ok(Wakeup { user, app, client, tables, stretches, pushes: Vec::new() })
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
            pushes: vec![],
        }
    }

    fn push_span(number: u128) -> PushSpan {
        PushSpan::parse(&format!("{:032x}-{:016x}", number + 1, number as u64 | 1)).unwrap()
    }

    #[test]
    fn replicas_of_the_version_before_read_traced_wake_ups_and_theirs_are_read() {
        /// What they read.
        #[derive(Deserialize)]
        struct Before {
            v: u32,
            w: Vec<OwnedEntry>,
        }
        let mut traced = wakeup("u", "todo", Some("phone"), &["tasks"]);
        let untraced = traced.clone();
        traced.pushes = vec![push_span(1), push_span(2)];
        let payload = encode(&[untraced.clone(), traced.clone()]).remove(0);
        let before: Before = serde_json::from_str(&payload).unwrap();
        let read: Vec<Wakeup> = before.w.into_iter().map(|entry| decode_entry(entry).unwrap()).collect();
        assert_eq!((before.v, read), (1, vec![untraced.clone(), untraced.clone()]));
        assert_eq!(decode(&payload).unwrap(), [untraced.clone(), traced]);
        let user = URL_SAFE_NO_PAD.encode(untraced.user.0.as_bytes());
        let theirs =
            format!(r#"{{"v":1,"w":[["{user}","todo","phone",["tasks"],[[1700000000000000,1700000000000002]]]]}}"#);
        assert_eq!(decode(&theirs).unwrap()[0], untraced);
        assert_eq!(encode(&[untraced]), [theirs], "nothing changes where none is sampled");
    }

    #[test]
    fn traces_that_make_no_sense_do_not_keep_a_wake_up_from_being_heard() {
        let payload = encode(&[wakeup("u", "todo", None, &["tasks"])]).remove(0);
        for traces in [r#"[[7,["x"]]]"#, r#"[[0,["x","","é-é"]]]"#, r#"[[0,[]]]"#] {
            let payload = payload.replace("]}", &format!("],\"t\":{traces}}}"));
            assert_eq!(decode(&payload).unwrap()[0].pushes, [], "{payload}");
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
            list in prop::collection::vec((".{0,60}", ".{1,255}", prop::option::of(".{1,255}"), prop::collection::vec(".{1,255}", 1..40), 0..=MAX_PUSHES), 0..40)
        ) {
            let list: Vec<Wakeup> = list
                .iter()
                .map(|(user, app, client, tables, pushes)| {
                    let app: String = app.chars().take(60).collect();
                    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
                    let pushes = (0..*pushes).map(|n| push_span(n as u128 * u128::from(u64::MAX))).collect();
                    Wakeup { pushes, ..wakeup(user, &app, client.as_deref(), &tables) }
                })
                .collect();
            let payloads = encode(&list);
            prop_assert!(payloads.iter().all(|payload| payload.len() <= MAX_PAYLOAD));
            let read: Vec<Wakeup> = payloads.iter().flat_map(|payload| decode(payload).unwrap()).collect();
            prop_assert_eq!(read.len(), list.len());
            for (read, sent) in read.iter().zip(&list) {
                prop_assert_eq!((read.user, &read.app, read.last()), (sent.user, &sent.app, sent.last()));
                prop_assert_eq!(&read.pushes, &sent.pushes);
                if read.tables.is_some() {
                    prop_assert_eq!(read, sent);
                }
            }
        }
    }
}
