//! The parsers alone: they return, and what they accept is well-formed.

use crate::checks;
use crate::shapes::{broken, push, stamp};
use mana_sync::fanout::codec::Payload;
use mana_sync::protocol::push::{StampPolicy, read_push};
use mana_sync::protocol::websocket::ClientMessage;
use mana_sync::protocol::{Cursor, Stamp};
use proptest::prelude::*;
use serde_json::Value;

const NOW: i64 = 1_767_225_600_000;

fn check_push(body: &[u8]) -> Result<(), TestCaseError> {
    let policy = StampPolicy { now: Stamp::from_millis(NOW), max_ahead: 300_000 };
    let Ok(push) = read_push(body, None, policy, 1_000) else { return Ok(()) };
    for change in &push.changes {
        prop_assert!(!change.table.is_empty() && !change.record.is_empty());
        for json in [Some(&change.stamps), change.data.as_ref(), change.claimed_stamps.as_ref(), change.extra.as_ref()]
        {
            let Some(json) = json else { continue };
            prop_assert!(serde_json::from_str::<Value>(json).is_ok_and(|json| json.is_object()), "{json}");
        }
        let stamps: Value = serde_json::from_str(&change.stamps).unwrap();
        for stamp in stamps.as_object().unwrap().values() {
            let stamp = stamp.as_str().and_then(|stamp| Stamp::parse(stamp).ok());
            prop_assert!(stamp.is_some_and(|stamp| stamp <= policy.latest()), "{stamps}");
        }
    }
    let adjusted: Vec<usize> = push.adjusted.iter().map(|adjusted| adjusted.index).collect();
    prop_assert!(adjusted.is_sorted() && adjusted.iter().all(|index| *index < push.changes.len()));
    // Parsed again, it is the same push: the identity of a change does not depend on when it is parsed.
    let again = read_push(body, None, policy, 1_000).unwrap();
    prop_assert_eq!(push.row_ids("u", "a"), again.row_ids("u", "a"));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pushes_are_taken_whole_or_refused(push in push()) {
        check_push(push.to_string().as_bytes())?;
    }

    #[test]
    fn broken_pushes_too(body in broken(push().prop_map(|push| push.to_string().into_bytes()))) {
        check_push(&body)?;
    }

    #[test]
    fn cursors_and_stamps_that_are_read_are_written_as_they_are_read(text in stamp()) {
        if let Ok(cursor) = Cursor::parse(&text) {
            prop_assert_eq!(Cursor::parse(&cursor.to_string()).unwrap().micros(), cursor.micros());
        }
        if let Ok(stamp) = Stamp::parse(&text) {
            prop_assert_eq!(Stamp::parse(&stamp.to_string()).unwrap(), stamp);
        }
    }

    #[test]
    fn notifications_are_read_or_refused(
        begin in prop::sample::select(vec!["", "v1 ", "v2 ", "2", "{\"w\":[", "{"]),
        text in "[\\PC]{0,80}",
    ) {
        let text = format!("{begin}{text}");
        if let Some(Ok(payload)) = Payload::parse(&text) {
            payload.entries().for_each(|entry| drop(entry.map(|entry| entry.read())));
        }
    }

    #[test]
    fn messages_are_read_or_ignored(text in "\\PC{0,60}", kind in "auth|ping|[a-z]{0,5}", token in any::<Option<i8>>()) {
        ClientMessage::read(&text);
        let message = format!(r#"{{"type":"{kind}","token":{},"{text}":1"#, serde_json::to_string(&token).unwrap());
        ClientMessage::read(&message);
        ClientMessage::read(&(message + "}"));
    }

    /// A short version of what cargo-fuzz does (fuzz/).
    #[test]
    fn noise_is_read_or_refused(noise in any::<Vec<u8>>(), text in "\\PC{0,80}", broken in broken(push().prop_map(|push| push.to_string().into_bytes()))) {
        checks::push(&noise);
        checks::push(&broken);
        for text in [text, stamp_like(&noise), String::from_utf8_lossy(&broken).into_owned()] {
            checks::text(&text);
            checks::notification(&text);
        }
    }
}

/// Noise made of the characters of stamps, cursors and notifications.
fn stamp_like(noise: &[u8]) -> String {
    const SIGNS: &[u8] = b"0123456789-T:.Z+ va1[]{}\",w";
    noise.iter().map(|byte| char::from(SIGNS[usize::from(*byte) % SIGNS.len()])).collect()
}
