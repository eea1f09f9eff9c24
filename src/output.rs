//! What commands write: for people, and for programs.
//!
//! Names and values come from users. A terminal would take some of their characters for orders: to move the cursor, to erase
//! what stands there, to write from right to left. So people are shown other characters in their place, and in JSON they are
//! written as their numbers.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, Write};

/// The standard output of a command that does something and says so. What it does goes on whether anybody reads that or not.
#[derive(Debug, Default)]
pub struct Output {
    /// Why it cannot be written to: nothing more is.
    failure: Option<io::Error>,
}

impl Output {
    /// Writes a line.
    pub fn line(&mut self, text: impl Display) {
        if self.failure.is_none() {
            self.failure = writeln!(io::stdout().lock(), "{text}").err();
        }
    }

    /// Says whether all was written.
    ///
    /// # Errors
    /// It could not be, as on a full disk.
    pub fn end(self) -> io::Result<()> {
        read_or_not(self.failure.map_or(Ok(()), Err))
    }
}

/// Says on the standard error what is wrong, as the last thing that a command does: if that fails, nobody is left to be told.
pub fn complain(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whoever reads the output may have had enough; that is no error.
pub fn read_or_not(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// A text of users for people.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if is_order(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A JSON text that a terminal may show: it says the same.
pub fn escaped(json: &str) -> Cow<'_, str> {
    // Those of ASCII have been escaped, or stand between values.
    let is_raw = |c: char| c > '~' && is_order(c);
    if !json.contains(is_raw) {
        return json.into();
    }
    let mut text = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_raw(c) {
            // All of them have four digits, and a String takes whatever is written to it.
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text.into()
}

/// Whether a terminal takes a character for an order: it controls, ends a line, or says in which direction text runs.
fn is_order(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: &str = "\u{7f}\u{9b}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}";

    #[test]
    fn people_are_shown_no_orders() {
        assert_eq!(plain("Grüße, 世界 🎉 שלום"), "Grüße, 世界 🎉 שלום");
        assert_eq!(plain("a\u{1b}[2J\nb\t\r"), "a\u{fffd}[2J\u{fffd}b\u{fffd}\u{fffd}");
        assert!(plain(ORDERS).chars().all(|c| c == '\u{fffd}'));
    }

    #[test]
    fn json_without_orders_says_the_same() {
        for value in ["plain", "Grüße, 世界 🎉 שלום \u{1b}[2J\n", ORDERS] {
            let json = serde_json::json!({ value: [value] });
            let text = json.to_string();
            let text = escaped(&text);
            assert!(!text.contains(is_order), "{text}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), json);
        }
        assert_eq!(escaped("{\n  \"a\": 1\n}\n"), "{\n  \"a\": 1\n}\n", "between values there may be lines");
    }
}
