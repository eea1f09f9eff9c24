//! Where a reader of several logs stands, as one opaque text: the `id` of the stream of all apps.

use super::cursor::{Cursor, CursorError};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// How such a text begins; no cursor does.
const FORM: &str = "a1.";
/// What an app is called in it, however long its name is: 48 bits of a SHA-256. It tells the apps of one user apart.
const KEY_WIDTH: usize = 8;
const PART_WIDTH: usize = KEY_WIDTH + Cursor::WIDTH;

/// A position in several logs of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamPosition {
    /// The same in each of them.
    Everywhere(Cursor),
    /// One for each app, by its key.
    Each(HashMap<String, Cursor>),
}

impl StreamPosition {
    /// Reads what [`write_position`] wrote, or a cursor, which stands for all apps.
    pub fn parse(text: &str) -> Result<StreamPosition, CursorError> {
        let Some(parts) = text.strip_prefix(FORM) else { return Cursor::parse(text).map(StreamPosition::Everywhere) };
        if !parts.is_ascii() || !parts.len().is_multiple_of(PART_WIDTH) {
            return Err(CursorError);
        }
        let parts = parts.as_bytes().chunks(PART_WIDTH).map(|part| {
            // ASCII is UTF-8.
            let part = std::str::from_utf8(part).map_err(|_| CursorError)?;
            let (key, cursor) = part.split_at(KEY_WIDTH);
            Ok((key.to_owned(), Cursor::parse(cursor)?))
        });
        parts.collect::<Result<_, _>>().map(StreamPosition::Each)
    }

    /// Where the reader stands in the log of an app; none if it has not read it.
    pub fn of(&self, app: &str) -> Option<Cursor> {
        match self {
            StreamPosition::Everywhere(cursor) => Some(*cursor),
            StreamPosition::Each(cursors) => cursors.get(&key(app)).copied(),
        }
    }
}

/// Writes where a reader stands in each app's log: at most [`PART_WIDTH`] bytes for each.
pub fn write_position<'a>(cursors: impl IntoIterator<Item = (&'a str, Cursor)>) -> String {
    let mut text = FORM.to_owned();
    for (app, cursor) in cursors {
        text.push_str(&key(app));
        text.push_str(&cursor.to_string());
    }
    text
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
