//! Push bodies, written once with holes that each push fills: the cursor, and a number in every record id.

use bytes::Bytes;

use crate::protocol::BEGINNING;

/// The contents of changes. Sizes are those of the histories in `loadtest/data`: a median change has 170 bytes and sets
/// one field; one in ten has over 350.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// One short field of a record each: 170 bytes.
    #[default]
    Fields,
    /// Every tenth change is a whole record of six fields instead: 390 bytes.
    Mixed,
}

/// The rest of a change, after its record's id.
fn field() -> String {
    let value = format!(r#"{{"value":"^5.5.3","updatedAt":"{STAMP}"}}"#);
    format!(r#"","op":"update","fields":{{"devDependencies.typescript":{value}}}}}"#)
}

fn record() -> String {
    const NOTES: &str = "The ones by the window need more of it in July; ask for the long can at the front desk, and \
                         do not forget the one behind the printer on the second floor.";
    let stamps = format!(r#""createdAt":"{STAMP}","updatedAt":"{STAMP}""#);
    let data = format!(r#""title":"Water the plants","notes":"{NOTES}","priority":2,"done":false,{stamps}"#);
    format!(r#"","op":"insert","data":{{{data}}}}}"#)
}

/// A push with a number of changes, whose record ids all end in the number of the push.
#[derive(Clone, Debug)]
pub struct PushBody {
    bytes: Vec<u8>,
    since: usize,
    /// The end of the cursor, which is as long as the one last filled in.
    since_end: usize,
    numbers: Vec<usize>,
}

/// Digits of the number in a record id.
const DIGITS: usize = 10;
const STAMP: &str = "2024-07-05T16:01:06.000Z";

impl PushBody {
    /// Creates a body of `changes` changes of `client` to `table`.
    pub fn new(client: &str, table: &str, changes: usize, shape: Shape) -> Self {
        let mut text = format!(r#"{{"clientId":"{client}","since":""#);
        let since = text.len();
        text.push_str(BEGINNING);
        let since_end = text.len();
        text.push_str(r#"","changes":["#);
        let mut numbers = Vec::with_capacity(changes);
        for index in 0..changes {
            let comma = if index == 0 { "" } else { "," };
            text.push_str(&format!(r#"{comma}{{"table":"{table}","id":"{client}/{index}/"#));
            numbers.push(text.len());
            text.push_str(&"0".repeat(DIGITS));
            match shape == Shape::Mixed && index % 10 == 9 {
                false => text.push_str(&field()),
                true => text.push_str(&record()),
            }
        }
        text.push_str("]}");
        Self { bytes: text.into_bytes(), since, since_end, numbers }
    }

    /// Fills in push `number` since this cursor.
    pub fn fill(&mut self, since: &str, number: u64) -> Bytes {
        if since.len() == self.since_end - self.since {
            self.bytes[self.since..self.since_end].copy_from_slice(since.as_bytes());
        } else {
            self.bytes.splice(self.since..self.since_end, since.bytes());
            let end = self.since + since.len();
            for place in &mut self.numbers {
                *place = *place + end - self.since_end;
            }
            self.since_end = end;
        }
        let mut rest = number;
        for digit in (0..DIGITS).rev() {
            let byte = b'0' + (rest % 10) as u8;
            rest /= 10;
            for place in &self.numbers {
                self.bytes[place + digit] = byte;
            }
        }
        Bytes::copy_from_slice(&self.bytes)
    }

    /// The number of its changes.
    pub fn changes(&self) -> usize {
        self.numbers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Op, PushRequest};

    #[test]
    fn a_filled_body_is_a_push_with_the_cursor_and_the_number() {
        for shape in [Shape::Fields, Shape::Mixed] {
            let mut body = PushBody::new("device-7", "packages", 13, shape);
            for (since, number) in [(BEGINNING, 0), ("2026-01-01T10:06:15.123456Z", 41), (BEGINNING, 9_999_999_999)] {
                let push: PushRequest = serde_json::from_slice(&body.fill(since, number)).unwrap();
                assert_eq!((push.client_id.as_str(), push.since.as_str()), ("device-7", since));
                for (index, change) in push.changes.iter().enumerate() {
                    assert_eq!(change.id, format!("device-7/{index}/{number:0DIGITS$}"));
                }
                assert_eq!(push.changes.len(), body.changes());
            }
        }
    }

    #[test]
    fn sizes_are_those_of_the_histories() {
        let whole = |shape| PushBody::new("device-0001", "packages", 10, shape).fill(BEGINNING, 1);
        let (fields, mixed) = (whole(Shape::Fields), whole(Shape::Mixed));
        let (field, record) = (fields.len() / 10, mixed.len() - fields.len() * 9 / 10);
        assert!((150..190).contains(&field) && (350..430).contains(&record), "{field} and {record}");
        let push: PushRequest = serde_json::from_slice(&mixed).unwrap();
        assert!(matches!(&push.changes[9].op, Op::Insert { data } if data.len() == 6));
    }
}
