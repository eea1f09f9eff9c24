//! A reader's position in several logs as one opaque text: the `id` of the stream of all apps.

use super::cursor::{Cursor, CursorError};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// The prefix of such a text; no cursor begins like this.
const FORM: &str = "a1.";
/// Length of an app's key in it: 48 bits of a SHA-256, however long the app's name is. It tells the apps of one user
/// apart.
const KEY_WIDTH: usize = 8;
const PART_WIDTH: usize = KEY_WIDTH + Cursor::WIDTH;

/// A position in several logs of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamPosition {
    /// The same cursor for all of them.
    Everywhere(Cursor),
    /// A cursor for each app, by the app's key.
    Each(HashMap<String, Cursor>),
}

impl StreamPosition {
    /// Parses the output of [`write_position`], or a cursor, which applies to all apps.
    pub fn parse(text: &str) -> Result<StreamPosition, CursorError> {
        let Some(parts) = text.strip_prefix(FORM) else { return Cursor::parse(text).map(StreamPosition::Everywhere) };
        if !parts.is_ascii() || !parts.len().is_multiple_of(PART_WIDTH) {
            return Err(CursorError);
        }
        let parts = parts.as_bytes().chunks(PART_WIDTH).map(|part| {
            // ASCII is UTF-8.
            let part = std::str::from_utf8(part).map_err(|_| CursorError)?;
            let (key, cursor) = part.split_at(KEY_WIDTH);
            Ok((key.to_owned(), read_cursor(cursor)?))
        });
        parts.collect::<Result<_, _>>().map(StreamPosition::Each)
    }

    /// Returns the reader's position in the log of an app; none if it has not read it. A cursor that applies to all
    /// apps is from one log, if from any: for the others it says up to when the reader has everything, and never that
    /// they went back.
    pub fn of(&self, app: &str) -> Option<Cursor> {
        match self {
            StreamPosition::Everywhere(cursor) => Some(cursor.foreign()),
            StreamPosition::Each(cursors) => cursors.get(&key(app)).copied(),
        }
    }
}

/// Writes a reader's position in each app's log: at most [`PART_WIDTH`] bytes for each.
pub fn write_position<'a>(cursors: impl IntoIterator<Item = (&'a str, Cursor)>) -> String {
    let mut text = FORM.to_owned();
    for (app, cursor) in cursors {
        text.push_str(&key(app));
        text.push_str(&write_cursor(cursor));
    }
    text
}

/// Writes a cursor. One that its log has not issued has a form of its own, of the same width, so that it is not
/// mistaken for one issued by that log when it comes back: it ends in `z`. In an initial sync, which is written into
/// its digits, there is also a `t` before the time of day.
fn write_cursor(cursor: Cursor) -> String {
    let text = cursor.to_string();
    match (cursor.is_ours() || cursor.micros() == 0, cursor.is_initial_sync()) {
        (true, _) => text,
        (false, false) => text.replace('Z', "z"),
        (false, true) => text.to_ascii_lowercase(),
    }
}

/// Parses the output of [`write_cursor`].
fn read_cursor(text: &str) -> Result<Cursor, CursorError> {
    if !text.ends_with('z') {
        return Cursor::parse(text);
    }
    let has_flag = text.contains('t');
    Ok(if has_flag { Cursor::parse(&text.to_ascii_uppercase())? } else { Cursor::parse(text)? }.foreign())
}

fn key(app: &str) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(app.as_bytes())[..KEY_WIDTH * 3 / 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cursor_stands_for_every_app() {
        let position = StreamPosition::parse("2024-01-01T10:00:00.123440Z").unwrap();
        assert_eq!(position.of("todo").map(Cursor::micros), Some(1_704_103_200_123_440));
        assert_eq!(StreamPosition::parse("1970-01-01T00:00:00.000Z").unwrap().of("a"), Some(Cursor::BEGINNING));
    }

    #[test]
    fn what_is_neither_is_refused() {
        let good = write_position([("todo", Cursor::after(1_704_103_200_123_440))]);
        for wrong in ["", "now", "a1.x", "a1", &good[..good.len() - 1], &format!("{good}x"), &good.replace('T', "ü")] {
            assert_eq!(StreamPosition::parse(wrong), Err(CursorError), "{wrong}");
        }
        assert_eq!(StreamPosition::parse("a1.").unwrap().of("todo"), None);
    }

    #[test]
    fn what_stands_for_all_apps_is_no_proof_and_stays_none_on_every_way_back() {
        for (since, micros, initial) in [
            ("2024-01-01T10:00:00.123440Z", 1_704_103_200_123_440, false),
            ("2024-01-01T10:00:00.123450Z", 1_704_103_200_123_440, true),
            ("2024-01-01T10:00:00.000Z", 1_704_103_200_000_000, false),
            ("2024-01-01T10:00:00.12341Z", 1_704_103_200_123_410, false),
            ("2024-01-01T10:00:00.12345+00:00", 1_704_103_200_123_450, false),
        ] {
            let mut cursor = StreamPosition::parse(since).unwrap().of("todo").unwrap();
            for _ in 0..3 {
                let read = (cursor.micros(), cursor.is_initial_sync(), cursor.is_past(0));
                assert_eq!(read, (micros, initial, false), "{since}");
                let id = write_position([("todo", cursor)]);
                cursor = StreamPosition::parse(&id).unwrap().of("todo").unwrap();
            }
        }
        let own = write_position([("todo", Cursor::after(1_704_103_200_123_440))]);
        assert!(StreamPosition::parse(&own).unwrap().of("todo").unwrap().is_past(0), "its own log's is one");
    }

    proptest! {
        #[test]
        fn each_app_has_its_own_cursor(apps in prop::collection::btree_map(".{1,60}", (0..12_000_000_000_000_i64, any::<bool>()), 0..20)) {
            let cursor = |(steps, initial): (i64, bool)| Cursor::after(steps * Cursor::STEP).on_initial_sync(initial);
            let text = write_position(apps.iter().map(|(app, at)| (app.as_str(), cursor(*at))));
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            let position = StreamPosition::parse(&text).unwrap();
            for (app, at) in &apps {
                prop_assert_eq!(position.of(app).map(|cursor| cursor.to_string()), Some(cursor(*at).to_string()));
            }
            prop_assert_eq!(position.of("another app"), None);
        }
    }
}
