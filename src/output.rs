//! Output of commands, for people and for programs.
//!
//! Names and values come from users. A terminal would interpret some of their characters as control sequences: to move
//! the cursor, to erase text, to write from right to left. For people, these characters are therefore replaced; in JSON
//! they are escaped.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, Write};

/// The standard output of a command that does something and reports it. The command continues even if nobody reads the
/// output.
#[derive(Debug, Default)]
pub struct Output {
    /// The first write error. Nothing is written after it.
    failure: Option<io::Error>,
}

impl Output {
    /// Writes a line.
    pub fn line(&mut self, text: impl Display) {
        if self.failure.is_none() {
            self.failure = writeln!(io::stdout().lock(), "{text}").err();
        }
    }

    /// Returns the first write error, if any.
    ///
    /// Fails if not everything could be written, for example because a disk is full.
    pub fn end(self) -> io::Result<()> {
        read_or_not(self.failure.map_or(Ok(()), Err))
    }
}

/// Reports an error or a warning on standard error. If that fails, nobody is left to be told.
pub fn complain(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Ignores a broken pipe: a reader may stop reading early.
pub fn read_or_not(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Replaces control characters in a user's text, for people.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if is_order(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Escapes control characters in JSON for terminals, without changing its meaning.
pub fn escaped(json: &str) -> Cow<'_, str> {
    // Those in ASCII are already escaped, or stand between values.
    let is_raw = |c: char| c > '~' && is_order(c);
    if !json.contains(is_raw) {
        return json.into();
    }
    let mut text = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_raw(c) {
            // All of them have four digits, and writing to a String cannot fail.
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text.into()
}

/// Returns true if a terminal would interpret a character: it controls, ends a line, or sets the text direction.
fn is_order(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns a count with its noun, which takes an "s" unless there is one.
pub fn counted<N: std::fmt::Display + PartialEq + From<u8>>(count: N, one: &str) -> String {
    if count == N::from(1) { format!("1 {one}") } else { format!("{count} {one}s") }
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

    #[test]
    fn one_is_counted_in_the_singular() {
        assert_eq!([0_u64, 1, 2].map(|count| counted(count, "log")), ["0 logs", "1 log", "2 logs"]);
    }
}
