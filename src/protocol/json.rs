//! Checks JSON that is passed through unparsed for what PostgreSQL's `jsonb` cannot hold, and writes JSON strings.

use std::fmt;

/// Maximum nesting. `jsonb` is parsed recursively; this is far below what PostgreSQL's stack allows and far above any
/// real document.
pub const MAX_DEPTH: usize = 512;

/// Maximum exponent. Readers that hold numbers as doubles cannot tell larger ones from zero or infinity, but `jsonb`
/// writes them out digit by digit: a few bytes of a push would come back as 128 KiB.
pub const MAX_EXPONENT: u32 = 400;

/// Maximum number of digits in a number. No double has as many; `jsonb` has a limit of its own, past which it would
/// reject the whole statement.
pub const MAX_DIGITS: usize = 1_000;

/// Maximum number of zeros that a value's exponents may add: this many in any case, and this multiple of its length.
/// Doubles as JavaScript writes them stay below: their exponents are rarely above 20 and take four characters
/// themselves.
const MAX_ZEROS: usize = 64 << 10;
const MAX_GROWTH: usize = 8;

/// The reasons why well-formed JSON cannot be stored as `jsonb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unstorable {
    /// PostgreSQL has no NUL character.
    #[error("has the character \\u0000, which cannot be stored; remove it")]
    Nul,
    /// Half of a surrogate pair is not a character.
    #[error("has an unpaired surrogate (\\ud800 to \\udfff), which is not a character; remove it")]
    LoneSurrogate,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// A power of ten beyond [`MAX_EXPONENT`].
    #[error("has a number with an exponent beyond ±{MAX_EXPONENT}")]
    Exponent,
    /// A number of more than [`MAX_DIGITS`] digits.
    #[error("has a number of more than {MAX_DIGITS} digits")]
    Digits,
    /// So many exponents that the value, written out digit by digit, would be many times as long.
    #[error("has so many numbers with large exponents that it would be many times as long when read back")]
    Grows,
}

/// The growth of values when PostgreSQL writes them out, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Bytes read so far.
    length: usize,
    /// Zeros added for exponents.
    zeros: usize,
    /// Spaces added after commas and colons.
    spaces: usize,
}

impl Growth {
    /// Returns the maximum number of bytes that PostgreSQL adds.
    pub fn bytes(self) -> usize {
        self.zeros + self.spaces
    }

    /// Checks well-formed JSON for what `jsonb` rejects although JSON allows it, and adds its growth. The limit for
    /// exponents is shared with the texts checked before.
    pub fn check(&mut self, json: &str) -> Result<(), Unstorable> {
        let bytes = json.as_bytes();
        let (mut at, mut depth, mut in_string, mut number) = (0, 0usize, false, 0usize);
        self.length += bytes.len();
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            let digits = std::mem::take(&mut number);
            match byte {
                b'"' => in_string = !in_string,
                b'\\' if in_string => at = check_escape(bytes, at)?,
                _ if in_string => {}
                b'0'..=b'9' | b'.' => {
                    number = digits + 1;
                    if number > MAX_DIGITS {
                        return Err(Unstorable::Digits);
                    }
                }
                b'{' | b'[' => {
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return Err(Unstorable::TooDeep);
                    }
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' | b':' => self.spaces += 1,
                // Outside of strings an e after a digit belongs to an exponent; the others are in true and false.
                b'e' | b'E' if digits > 0 => {
                    self.zeros += check_exponent(&bytes[at..])? as usize;
                    if self.zeros > MAX_ZEROS + self.length * MAX_GROWTH {
                        return Err(Unstorable::Grows);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Checks the exponent at the start of `rest`, and returns its value.
fn check_exponent(rest: &[u8]) -> Result<u32, Unstorable> {
    let digits = rest.strip_prefix(b"+").or(rest.strip_prefix(b"-")).unwrap_or(rest);
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let exponent = digits.fold(0_u32, |value, digit| value.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
    if exponent > MAX_EXPONENT { Err(Unstorable::Exponent) } else { Ok(exponent) }
}

/// Checks the escape whose backslash is before `at`; returns where the text continues.
fn check_escape(bytes: &[u8], at: usize) -> Result<usize, Unstorable> {
    match unicode_escape(bytes, at) {
        None => Ok(at + 1),
        Some(0) => Err(Unstorable::Nul),
        Some(0xD800..=0xDBFF) => match bytes.get(at + 5).and_then(|_| unicode_escape(bytes, at + 6)) {
            Some(0xDC00..=0xDFFF) if bytes.get(at + 5) == Some(&b'\\') => Ok(at + 11),
            _ => Err(Unstorable::LoneSurrogate),
        },
        Some(0xDC00..=0xDFFF) => Err(Unstorable::LoneSurrogate),
        Some(_) => Ok(at + 5),
    }
}

/// Returns the code unit of `uXXXX` at `at`, if there is one.
fn unicode_escape(bytes: &[u8], at: usize) -> Option<u16> {
    let escape = bytes.get(at..at + 5)?;
    if escape.first() != Some(&b'u') {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(&escape[1..]).ok()?, 16).ok()
}

/// Displays a text as a JSON string, including quotes.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut quoted = String::with_capacity(self.0.len() + 2);
        push_quoted(&mut quoted, self.0);
        f.write_str(&quoted)
    }
}

/// Writes a text as a JSON string, including quotes.
pub fn push_quoted(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// True if a text needs no escaping in a JSON string (RFC 8259, section 7).
fn is_plain(text: &str) -> bool {
    !text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\')
}

/// Writes the members of one JSON object into a string.
#[derive(Debug)]
pub struct ObjectWriter {
    out: String,
}

impl ObjectWriter {
    /// Creates an object without members.
    pub fn new() -> ObjectWriter {
        ObjectWriter { out: String::from("{") }
    }

    /// Adds a member. `json` is written as it is.
    pub fn raw(&mut self, name: &str, json: &str) {
        use fmt::Write;
        if self.out.len() > 1 {
            self.out.push(',');
        }
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{}:{json}", Quoted(name));
    }

    /// Adds a member whose value is a string that needs no escaping, such as a stamp.
    pub fn plain(&mut self, name: &str, value: impl fmt::Display) {
        self.raw(name, &format!("\"{value}\""));
    }

    /// Adds a member whose value is a string.
    pub fn text(&mut self, name: &str, value: &str) {
        self.raw(name, &Quoted(value).to_string());
    }

    /// True if no member was added.
    pub fn is_empty(&self) -> bool {
        self.out.len() == 1
    }

    /// Returns the object as JSON.
    pub fn finish(mut self) -> String {
        self.out.push('}');
        self.out
    }
}

impl Default for ObjectWriter {
    fn default() -> Self {
        ObjectWriter::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_storable(json: &str) -> Result<(), Unstorable> {
        Growth::default().check(json)
    }

    #[test]
    fn growth_is_what_postgresql_writes_in_addition() {
        let growth = |json: &str| {
            let mut growth = Growth::default();
            growth.check(json).unwrap();
            growth.bytes()
        };
        assert_eq!(growth(r#"{"a,:":[1,2],"b":"x:y"}"#), 4);
        assert!(growth("1e400") >= 396);
        let many = format!("[{}]", vec!["1e400"; 200].join(","));
        let mut shared = Growth::default();
        let refused = (0..10).find_map(|_| shared.check(&many).err());
        assert_eq!(refused, Some(Unstorable::Grows), "values share what they may add");
    }

    #[test]
    fn what_jsonb_cannot_hold_is_found() {
        for (json, found) in [
            (r#""a\u0000b""#, Err(Unstorable::Nul)),
            (r#"{"k\u0000":1}"#, Err(Unstorable::Nul)),
            (r#""\\u0000""#, Ok(())),
            (r#""\ud83d\ude00""#, Ok(())),
            (r#""\ud83d""#, Err(Unstorable::LoneSurrogate)),
            (r#""\ud83dxxxxxx""#, Err(Unstorable::LoneSurrogate)),
            (r#""\ud83d\n\u0041""#, Err(Unstorable::LoneSurrogate)),
            (r#""\ude00\ud83d""#, Err(Unstorable::LoneSurrogate)),
            (r#"[1,"[[[[",{"a":"\"["}]"#, Ok(())),
            ("12", Ok(())),
        ] {
            assert_eq!(check_storable(json), found, "{json}");
        }
        for (number, found) in [
            ("1.7976931348623157e+308", Ok(())),
            ("5E-324", Ok(())),
            ("[true,false,1e400]", Ok(())),
            ("1e401", Err(Unstorable::Exponent)),
            ("[-1.5E+99999999999999999999]", Err(Unstorable::Exponent)),
            ("{\"n\":0e-000401}", Err(Unstorable::Exponent)),
            (r#""1e999 \" 1e999""#, Ok(())),
        ] {
            assert_eq!(check_storable(number), found, "{number}");
        }
        for (digits, found) in
            [(MAX_DIGITS, Ok(())), (MAX_DIGITS + 1, Err(Unstorable::Digits)), (17_000, Err(Unstorable::Digits))]
        {
            assert_eq!(check_storable(&"1".repeat(digits)), found);
            assert_eq!(check_storable(&format!("[-0.{}]", "1".repeat(digits - 2))), found);
            assert_eq!(check_storable(&format!("\"{}\"", "1".repeat(digits))), Ok(()));
        }
        let nest = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check_storable(&nest(MAX_DEPTH)), Ok(()));
        assert_eq!(check_storable(&nest(MAX_DEPTH + 1)), Err(Unstorable::TooDeep));
    }

    #[test]
    fn objects_are_written_with_escaped_names() {
        let mut object = ObjectWriter::new();
        assert!(object.is_empty());
        object.raw("a\"b", "[1]");
        object.plain("at", 7);
        assert_eq!(object.finish(), r#"{"a\"b":[1],"at":"7"}"#);
    }
}
