//! Cursors: the opaque `since` and `syncedUntil` strings.

use super::stamp::{digits, write_seconds};
use chrono::DateTime;
use std::fmt;

/// A position in the log of one user in one app.
///
/// Positions are microseconds since the epoch and always even: the store hands them out in steps of
/// [`Cursor::STEP`], strictly ascending, in the order of the commits. The odd microsecond after a position means
/// "here, on a walk that began at the beginning": on such a walk a device also gets back what it stored itself,
/// on every page until the walk has caught up. That way the flag survives in clients which know a cursor only as
/// a string to keep, to compare and to send back, at a fixed width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    micros: i64,
    walk: bool,
}

/// A text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not an RFC 3339 date and time; send back the syncedUntil of an earlier answer, or 1970-01-01T00:00:00.000Z"
)]
pub struct CursorError;

impl Cursor {
    /// The distance between neighbouring positions, in microseconds.
    pub const STEP: i64 = 2;
    /// The length of a written cursor, in bytes.
    pub const WIDTH: usize = 27;
    /// Before every change. A walk starts here.
    pub const BEGINNING: Cursor = Cursor { micros: 0, walk: true };

    /// Just after the change stored at `micros`.
    pub fn after(micros: i64) -> Cursor {
        match micros {
            ..=0 => Cursor::BEGINNING,
            _ => Cursor { micros: micros - micros.rem_euclid(Cursor::STEP), walk: false },
        }
    }

    /// The same position, on a walk from the beginning or not.
    pub fn on_walk(self, walk: bool) -> Cursor {
        Cursor { walk: walk || self.micros == 0, ..self }
    }

    /// Reads any RFC 3339 time. The epoch, and whatever lies before it, is the beginning.
    pub fn parse(text: &str) -> Result<Cursor, CursorError> {
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| CursorError)?;
        let micros = time.timestamp_micros();
        Ok(Cursor::after(micros).on_walk(micros.rem_euclid(Cursor::STEP) == 1))
    }

    /// As [`parse`](Cursor::parse), where nothing at all means the beginning.
    pub fn parse_or_beginning(text: &str) -> Result<Cursor, CursorError> {
        if text.is_empty() { Ok(Cursor::BEGINNING) } else { Cursor::parse(text) }
    }

    /// The position, in microseconds since the epoch.
    pub fn micros(self) -> i64 {
        self.micros
    }

    /// Whether the reader is on a walk from the beginning, and so gets its own changes back.
    pub fn is_walk(self) -> bool {
        self.walk
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = i64::from(self.walk && self.micros != 0);
        let micros = self.micros + flag;
        let mut out = *b"0000-00-00T00:00:00.000000Z";
        write_seconds(&mut out, micros.div_euclid(1_000_000));
        digits(&mut out[20..26], micros.rem_euclid(1_000_000) as u32);
        for byte in out {
            fmt::Write::write_char(f, char::from(byte))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const YEAR_9999: i64 = 253_402_300_799_000_000;

    #[test]
    fn the_beginning_is_the_epoch_however_spelled() {
        for text in
            ["1970-01-01T00:00:00.000Z", "1970-01-01T01:00:00+01:00", "1970-01-01t00:00:00z", "0001-01-01T00:00:00Z"]
        {
            assert_eq!(Cursor::parse(text), Ok(Cursor::BEGINNING), "{text}");
        }
        assert_eq!(Cursor::parse_or_beginning(""), Ok(Cursor::BEGINNING));
        assert_eq!(Cursor::BEGINNING.to_string(), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn a_cursor_that_is_no_time_is_refused() {
        for text in ["", "now", "12", "2024-01-01", "2024-01-01T10:00:00"] {
            assert_eq!(Cursor::parse(text), Err(CursorError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn cursors_are_fixed_width_and_order_as_strings(a in 0..YEAR_9999, b in 0..YEAR_9999, walks: (bool, bool)) {
            let a = Cursor::after(a).on_walk(walks.0);
            let b = Cursor::after(b).on_walk(walks.1);
            prop_assert_eq!(a.to_string().len(), Cursor::WIDTH);
            prop_assert_eq!(Cursor::parse(&a.to_string()), Ok(a));
            if a.micros() != b.micros() {
                prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            }
        }

        #[test]
        fn a_walk_is_carried_by_the_cursor_and_does_not_move_it(micros in 2..YEAR_9999) {
            let plain = Cursor::after(micros);
            let walking = plain.on_walk(true);
            prop_assert_eq!(plain.micros(), walking.micros());
            prop_assert!(!Cursor::parse(&plain.to_string()).unwrap().is_walk());
            prop_assert!(Cursor::parse(&walking.to_string()).unwrap().is_walk());
            prop_assert!(walking.to_string() < Cursor::after(plain.micros() + Cursor::STEP).to_string());
        }
    }
}
