//! Field stamps: the time at which a client wrote one field.

use chrono::{DateTime, Datelike, NaiveDate, Timelike};
use std::fmt;

/// A field stamp: an instant with the precision of JavaScript's `Date`, in milliseconds since the epoch.
///
/// Stamps compare as instants. [`Display`](fmt::Display) writes them exactly as `toISOString` does
/// (`2024-01-01T10:05:00.000Z`), because existing clients compare the strings they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(i64);

/// The reasons why a text is not a field stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// The text is not an RFC 3339 date and time.
    #[error("is not an RFC 3339 date and time such as 2024-01-01T10:05:00.000Z")]
    NotRfc3339,
    /// In UTC the year is below 0: `toISOString` would write it with another width, and strings of different widths do
    /// not compare like the instants.
    #[error("is before the year 0000")]
    OutOfRange,
}

/// Milliseconds of 0000-01-01T00:00:00.000Z and of 9999-12-31T23:59:59.999Z.
const FIRST: i64 = -62_167_219_200_000;
const LAST: i64 = 253_402_300_799_999;
const SECOND: i64 = 1_000;

impl Stamp {
    /// The length of a stamp as text, in bytes.
    pub const WIDTH: usize = 24;
    /// The beginning of time: the stamp of everything that came without one.
    pub const EPOCH: Stamp = Stamp(0);

    /// Returns the stamp `millis` milliseconds after the epoch, clamped to the years 0000–9999.
    pub fn from_millis(millis: i64) -> Stamp {
        Stamp(millis.clamp(FIRST, LAST))
    }

    /// Returns milliseconds since the epoch.
    pub fn millis(self) -> i64 {
        self.0
    }

    /// Parses any RFC 3339 form. Anything finer than a millisecond is truncated, and anything past the year 9999 in UTC
    /// becomes its last millisecond: far enough ahead of any clock to be adjusted.
    pub fn parse(text: &str) -> Result<Stamp, StampError> {
        if let Some(stamp) = parse_as_written(text.as_bytes()) {
            return Ok(stamp);
        }
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| StampError::NotRfc3339)?;
        match time.timestamp_millis() {
            ..FIRST => Err(StampError::OutOfRange),
            millis => Ok(Stamp(millis.min(LAST))),
        }
    }

    /// Returns the text form as bytes.
    pub fn encode(self) -> [u8; Self::WIDTH] {
        let mut out = *b"0000-00-00T00:00:00.000Z";
        write_seconds(&mut out, self.0.div_euclid(SECOND));
        digits(&mut out[20..23], self.0.rem_euclid(SECOND) as u32);
        out
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Digits and punctuation are always valid UTF-8.
        f.write_str(std::str::from_utf8(&self.encode()).unwrap_or_default())
    }
}

/// Parses a stamp in the form we write, as nearly all are. None for any other text, which may still be a stamp.
fn parse_as_written(text: &[u8]) -> Option<Stamp> {
    let text: &[u8; Stamp::WIDTH] = text.try_into().ok()?;
    for (at, separator) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')] {
        if text[at] != separator {
            return None;
        }
    }
    let number = |from: usize, to: usize| {
        text[from..to]
            .iter()
            .try_fold(0, |value: u32, byte| byte.is_ascii_digit().then(|| value * 10 + u32::from(byte - b'0')))
    };
    let date = NaiveDate::from_ymd_opt(i32::try_from(number(0, 4)?).ok()?, number(5, 7)?, number(8, 10)?)?;
    // chrono has to read leap seconds.
    let time = date.and_hms_milli_opt(number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 23)?)?;
    Some(Stamp(time.and_utc().timestamp_millis()))
}

/// Writes `YYYY-MM-DDTHH:MM:SS` over the first 19 bytes of `out`, which has the separators already.
pub(super) fn write_seconds(out: &mut [u8], seconds: i64) {
    let time = DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::UNIX_EPOCH);
    digits(&mut out[0..4], time.year().unsigned_abs());
    digits(&mut out[5..7], time.month());
    digits(&mut out[8..10], time.day());
    digits(&mut out[11..13], time.hour());
    digits(&mut out[14..16], time.minute());
    digits(&mut out[17..19], time.second());
}

/// Fills `out` with the decimal digits of `value`, padded with zeros.
pub(super) fn digits(out: &mut [u8], mut value: u32) {
    for byte in out.iter_mut().rev() {
        *byte = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests;
