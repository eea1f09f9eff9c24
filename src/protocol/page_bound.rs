//! Bounds the text of a page before it is written (G6).
//!
//! An insert that is sent as an update has a stamp for each of its fields, twice: of the shortest fields, ten times as much
//! as is stored.

use super::merge::{OwnWrites, StoredChange, UnreadableChange};
use super::page::size_of;
use super::push::Op;

/// Bytes that a field takes in addition if its insert is sent as an update.
const PER_FIELD: usize = r#"{"value":,"at":"2024-01-01T10:00:00.000Z","updatedAt":"2024-01-01T10:00:00.000Z"}"#.len();

/// The part of a page that may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitting {
    /// The number of its changes.
    pub changes: usize,
    /// Bytes of their text beyond [`super::page::size_of`], at most.
    pub excess: usize,
}

/// Returns how many of these changes may be sent together, at least one, so that their text takes no more than a page of
/// this many bytes where it exceeds what is stored.
pub fn fitting(changes: &[StoredChange], own: &OwnWrites, max_bytes: usize) -> Result<Fitting, UnreadableChange> {
    let (mut bytes, mut excess) = (0, 0);
    for (index, change) in changes.iter().enumerate() {
        let more = excess + excess_of(change, own)?;
        bytes += size_of(std::slice::from_ref(change));
        if more > 0 && bytes + more > max_bytes && index > 0 {
            return Ok(Fitting { changes: index, excess });
        }
        excess = more;
    }
    Ok(Fitting { changes: changes.len(), excess })
}

fn excess_of(change: &StoredChange, own: &OwnWrites) -> Result<usize, UnreadableChange> {
    if change.op != Op::Insert || change.has_plain_stamp()? && !own.concern(change) {
        return Ok(0);
    }
    Ok(PER_FIELD * change.field_names()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Cursor;
    use crate::protocol::merge::OwnWrites;
    use crate::protocol::page::{Page, Remarks, WrittenChanges, encode_answer};
    use uuid::Uuid;

    fn insert(at: i64, data: &str) -> StoredChange {
        StoredChange {
            id: Uuid::nil(),
            at,
            table: "t".into(),
            record: at.to_string(),
            op: Op::Insert,
            data: Some(data.to_owned()),
            stamps: "{}".into(),
            extra: None,
            is_own: false,
            rows_trimmed: false,
        }
    }

    #[test]
    fn the_text_of_what_fits_is_no_longer_than_told_and_something_always_fits() {
        let short: String = (0..500).map(|n| format!(r#""{n}": 1, "#)).collect();
        let unstamped = format!(r#"{{{short}"updatedAt": 1}}"#);
        let stamped = format!(r#"{{{short}"updatedAt": "2024-01-01T10:00:00.000Z"}}"#);
        let own = OwnWrites::default();
        let whole: Vec<_> = (1..9).map(|at| insert(at, &stamped)).collect();
        assert_eq!(fitting(&whole, &own, 0).unwrap(), Fitting { changes: 8, excess: 0 });
        let split: Vec<_> = (1..9).map(|at| insert(at, &unstamped)).collect();
        assert_eq!(fitting(&split, &own, 0).unwrap().changes, 1);
        let Fitting { changes, excess } = fitting(&split, &own, 150_000).unwrap();
        assert_eq!(changes, 3);
        let page = Page {
            changes: split[..changes].to_vec(),
            own,
            head: 9,
            until: Cursor::after(3),
            has_more: true,
            written: WrittenChanges::default(),
            excess,
        };
        let size = page.size();
        let text = encode_answer(page, &Remarks::default()).unwrap();
        assert!(text.len() <= size && text.len() > 5 * size_of(&split[..changes]), "{} of {size}", text.len());
    }
}
