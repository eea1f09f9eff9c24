//! Cursors: the opaque `since` and `syncedUntil` strings.

use super::stamp::{digits, write_seconds};
use chrono::DateTime;
use std::fmt;

/// The last position that can be written as a cursor.
const LAST: i64 = 253_402_300_799_999_980;

/// A position in the log of one user in one app.
///
/// Positions are microseconds since the epoch, multiples of [`Cursor::STEP`], strictly ascending in commit order. Half
/// a step after a position means "here, in an initial sync that began at the beginning": in such a sync a device also
/// gets back what it stored itself, on every page until it has caught up. That way the flag survives in clients that
/// treat a cursor as a string of fixed width to store, compare and send back.
///
/// Both forms have six fractional digits and end in the digit 0. The previous server never wrote such a cursor, because
/// it cut off zeros at the end of a fraction: its cursors, and the clients' own times, mean just what they say and
/// never carry the flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    micros: i64,
    initial: bool,
    /// True if it has the form of the cursors that this cluster issues.
    ours: bool,
}

/// A text that is not a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not an RFC 3339 date and time; send back the syncedUntil of an earlier answer, or 1970-01-01T00:00:00.000Z"
)]
pub struct CursorError;

impl Cursor {
    /// The distance between neighbouring positions, in microseconds.
    pub const STEP: i64 = 20;
    /// The offset that marks an initial sync, in microseconds.
    const FLAG: i64 = Cursor::STEP / 2;
    /// The length of a cursor as text, in bytes.
    pub const WIDTH: usize = 27;
    /// Before every change; an initial sync starts here.
    pub const BEGINNING: Cursor = Cursor { micros: 0, initial: true, ours: false };

    /// Returns the cursor just after the change stored at `micros`.
    pub fn after(micros: i64) -> Cursor {
        match micros {
            ..=0 => Cursor::BEGINNING,
            _ => Cursor { micros, initial: false, ours: true },
        }
    }

    /// Returns the same position, marked as in an initial sync or not.
    pub fn on_initial_sync(self, initial: bool) -> Cursor {
        Cursor { initial: initial || self.micros == 0, ..self }
    }

    /// Parses any RFC 3339 time. The epoch and everything before it is the beginning; anything past the year 9999 in
    /// UTC is clamped to its end.
    pub fn parse(text: &str) -> Result<Cursor, CursorError> {
        let micros = DateTime::parse_from_rfc3339(text).map_err(|_| CursorError)?.timestamp_micros().min(LAST);
        if micros <= 0 {
            return Ok(Cursor::BEGINNING);
        }
        // The previous server also wrote six digits, but never with a trailing zero.
        let ours = text.len() == Cursor::WIDTH && text.ends_with("0Z") && text.as_bytes()[19] == b'.';
        let initial = ours && micros % Cursor::STEP == Cursor::FLAG;
        let position = if initial { micros - Cursor::FLAG } else { micros };
        Ok(Cursor { ours, ..Cursor::after(position) }.on_initial_sync(initial))
    }

    /// Like [`parse`](Cursor::parse), but an empty text means the beginning.
    pub fn parse_or_beginning(text: &str) -> Result<Cursor, CursorError> {
        if text.is_empty() { Ok(Cursor::BEGINNING) } else { Cursor::parse(text) }
    }

    /// Returns the position in microseconds since the epoch.
    pub fn micros(self) -> i64 {
        self.micros
    }

    /// True if the reader is in an initial sync, and so gets its own changes back.
    pub fn is_initial_sync(self) -> bool {
        self.initial
    }

    /// Returns the same position for a log that has not issued it: it proves nothing about that log.
    #[must_use]
    pub fn foreign(self) -> Cursor {
        Cursor { ours: false, ..self }
    }

    /// True if the log it is used for may have issued it.
    pub fn is_ours(self) -> bool {
        self.ours
    }

    /// True if a log that ends at `head` cannot have issued this cursor: the database went back to an earlier state.
    pub fn is_past(self, head: i64) -> bool {
        self.ours && self.micros > head
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = match self.micros % Cursor::STEP {
            _ if !self.initial || self.micros == 0 => self.micros,
            0 => self.micros + Cursor::FLAG,
            // A row of the first version, whose positions were closer together: the rows before it are sent again.
            between => (self.micros - between - Cursor::FLAG).max(0),
        };
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
    fn a_time_beyond_the_year_9999_in_utc_is_its_end() {
        let cursor = Cursor::parse("9999-12-31T23:59:59.999-01:00").unwrap();
        assert_eq!(cursor.to_string(), "9999-12-31T23:59:59.999980Z");
        assert_eq!(Cursor::parse(&cursor.to_string()).unwrap().micros(), cursor.micros());
    }

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

    #[test]
    fn cursors_of_other_servers_mean_what_they_say() {
        for (text, micros) in [
            ("2024-01-01T10:00:00.123457Z", 1_704_103_200_123_457),
            ("2024-01-01T10:00:00.000001Z", 1_704_103_200_000_001),
            ("2024-01-01t10:00:00.12345678Z", 1_704_103_200_123_456),
            ("2024-01-01T10:00:00.1234567Z", 1_704_103_200_123_456),
            ("2024-01-01T10:00:00.12+00:00", 1_704_103_200_120_000),
            ("2024-01-01T10:00:00.12341Z", 1_704_103_200_123_410),
            ("2024-01-01T10:00:00.123456789Z", 1_704_103_200_123_456),
            ("2024-01-01T11:00:00.1234+01:00", 1_704_103_200_123_400),
            ("2024-01-01T10:00:00.000Z", 1_704_103_200_000_000),
            ("2024-01-01T10:00:00Z", 1_704_103_200_000_000),
        ] {
            let cursor = Cursor::parse(text).unwrap();
            assert_eq!((cursor.micros(), cursor.is_initial_sync()), (micros, false), "{text}");
            assert!(!cursor.is_past(0), "{text} is taken for a rewind");
        }
    }

    #[test]
    fn a_cursor_of_ours_past_the_head_shows_that_the_database_went_back() {
        let cursor = Cursor::parse("2024-01-01T10:00:00.123440Z").unwrap();
        assert!(cursor.is_past(cursor.micros() - Cursor::STEP));
        assert!(!cursor.is_past(cursor.micros()));
        assert!(!Cursor::BEGINNING.is_past(-1));
    }

    #[test]
    fn an_initial_sync_never_skips_a_row_of_the_first_version() {
        let row = 1_704_103_200_123_426;
        let cursor = Cursor::parse(&Cursor::after(row).on_initial_sync(true).to_string()).unwrap();
        assert!(cursor.is_initial_sync() && cursor.micros() <= row);
    }

    proptest! {
        #[test]
        fn cursors_are_fixed_width_and_order_as_strings(a in 0..YEAR_9999, b in 0..YEAR_9999, initial: (bool, bool)) {
            let a = Cursor::after(a / Cursor::STEP * Cursor::STEP).on_initial_sync(initial.0);
            let b = Cursor::after(b / Cursor::STEP * Cursor::STEP).on_initial_sync(initial.1);
            prop_assert_eq!(a.to_string().len(), Cursor::WIDTH);
            prop_assert_eq!(Cursor::parse(&a.to_string()), Ok(a));
            if a.micros() != b.micros() {
                prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            }
        }

        #[test]
        fn an_initial_sync_is_carried_by_the_cursor_and_does_not_move_it(steps in 1..YEAR_9999 / Cursor::STEP) {
            let plain = Cursor::after(steps * Cursor::STEP);
            let initial = plain.on_initial_sync(true);
            prop_assert_eq!(plain.micros(), initial.micros());
            prop_assert!(!Cursor::parse(&plain.to_string()).unwrap().is_initial_sync());
            prop_assert!(Cursor::parse(&initial.to_string()).unwrap().is_initial_sync());
            prop_assert!(initial.to_string() < Cursor::after(plain.micros() + Cursor::STEP).to_string());
        }
    }
}
