//! The invariants of every single answer, checked as it arrives (G2). A violation is an error that ends the run with
//! what was seen, so that it is found at the answer that broke the promise and not in a comparison an hour later.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::protocol::{self, Change, SyncAnswer, Write};
use crate::stamp;

/// A promise of the protocol that an answer broke.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Violation {
    /// A cursor is longer or shorter than earlier ones: they could not be compared as strings.
    #[error("the cursor {cursor:?} is {found} characters long, earlier ones were {expected}")]
    CursorWidth {
        /// The cursor.
        cursor: String,
        /// The length of earlier ones, in characters.
        expected: usize,
        /// The length of this one.
        found: usize,
    },
    /// A cursor is not a time.
    #[error("the cursor {cursor:?} is not an RFC 3339 time")]
    CursorShape {
        /// The cursor.
        cursor: String,
    },
    /// There were changes, but the cursor is not later than before.
    #[error("{changes} changes since {since:?}, but the cursor {cursor:?} is not later")]
    CursorStood {
        /// The cursor of the request.
        since: String,
        /// The cursor.
        cursor: String,
        /// The number of changes.
        changes: usize,
    },
    /// The cursor is earlier than that of the request.
    #[error("asked since {since:?}, answered with the earlier cursor {cursor:?}")]
    CursorWentBack {
        /// The cursor of the request.
        since: String,
        /// The cursor.
        cursor: String,
    },
    /// There is more, but the cursor does not move.
    #[error("hasMore is true, but the cursor stays at {cursor:?}")]
    NoProgress {
        /// The cursor.
        cursor: String,
    },
    /// A device got its own change back.
    #[error("since {since:?} the device got back its own change of {table}/{id}")]
    OwnChange {
        /// The cursor of the request.
        since: String,
        /// The table.
        table: String,
        /// The record.
        id: String,
    },
    /// A page has more changes than allowed.
    #[error("a page of {found} changes, more than {limit}")]
    PageTooLong {
        /// The number of its changes.
        found: usize,
        /// The maximum number.
        limit: usize,
    },
    /// A change belongs to another table than requested.
    #[error("asked for {asked}, got a change of {found}")]
    OtherTable {
        /// The requested table.
        asked: String,
        /// The table of the change.
        found: String,
    },
    /// A stamp that existing clients would compare wrongly.
    #[error("the stamp {found:?} of {table}/{id}/{field} is not spelled as toISOString does")]
    StampSpelling {
        /// The table.
        table: String,
        /// The record.
        id: String,
        /// The field.
        field: String,
        /// The stamp.
        found: String,
    },
    /// A pull has conflicts.
    #[error("the answer to a pull has conflicts")]
    Conflicts,
}

/// A cursor, and whether it is within an initial sync, where own changes come back too.
#[derive(Clone, Debug, PartialEq)]
pub struct Cursor {
    /// The cursor as the server wrote it.
    pub value: String,
    /// True if it is within an initial sync.
    pub initial_sync: bool,
}

impl Default for Cursor {
    fn default() -> Self {
        Self::at(protocol::BEGINNING)
    }
}

impl Cursor {
    /// Creates a cursor that was kept from before; the beginning starts an initial sync.
    pub fn at(value: &str) -> Self {
        Self { value: value.to_owned(), initial_sync: protocol::is_beginning(value) }
    }

    /// Returns the cursor that an answer moves this one to.
    pub fn after(&self, answer: &SyncAnswer) -> Self {
        let initial_sync = (self.initial_sync && answer.has_more) || protocol::is_beginning(&answer.synced_until);
        Self { value: answer.synced_until.clone(), initial_sync }
    }
}

/// The request, as far as the answer must match it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The cursor of the request.
    pub since: &'a Cursor,
    /// The table of a pull.
    pub table: Option<&'a str>,
}

/// The memory of one device's checks.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    width: Option<usize>,
    own: HashSet<u64>,
}

impl Checks {
    /// Remembers what the device itself has sent. Devices that write the very same value with the very same stamp can't
    /// be told apart by what they wrote; tests that do so leave this out.
    pub fn sent(&mut self, change: &Change) {
        let stored = change.clone().with_canonical_stamps();
        self.own.extend(stored.writes().iter().map(|write| fingerprint(change, write)));
    }

    /// Checks an answer.
    pub fn answer(&mut self, asked: Asked<'_>, answer: &SyncAnswer) -> Result<(), Violation> {
        self.cursor(asked.since, answer)?;
        if asked.table.is_some() && !answer.conflicts.is_empty() {
            return Err(Violation::Conflicts);
        }
        if let Some(table) = asked.table {
            if answer.server_changes.len() > protocol::PULL_PAGE {
                return Err(Violation::PageTooLong { found: answer.server_changes.len(), limit: protocol::PULL_PAGE });
            }
            if let Some(other) = answer.server_changes.iter().find(|change| change.table != table) {
                return Err(Violation::OtherTable { asked: table.to_owned(), found: other.table.clone() });
            }
        }
        for change in &answer.server_changes {
            spelling(change)?;
            if !asked.since.initial_sync && self.is_own(change) {
                return Err(Violation::OwnChange {
                    since: asked.since.value.clone(),
                    table: change.table.clone(),
                    id: change.id.clone(),
                });
            }
        }
        Ok(())
    }

    fn cursor(&mut self, since: &Cursor, answer: &SyncAnswer) -> Result<(), Violation> {
        let cursor = answer.synced_until.clone();
        let from_beginning = protocol::is_beginning(&since.value);
        if protocol::is_beginning(&cursor) && from_beginning && answer.server_changes.is_empty() && !answer.has_more {
            return Ok(());
        }
        self.shape(&cursor)?;
        let since = since.value.clone();
        if cursor < since {
            return Err(Violation::CursorWentBack { since, cursor });
        }
        if cursor == since && !answer.server_changes.is_empty() {
            return Err(Violation::CursorStood { since, cursor, changes: answer.server_changes.len() });
        }
        if cursor == since && answer.has_more {
            return Err(Violation::NoProgress { cursor });
        }
        Ok(())
    }

    /// Checks that a cursor has a fixed width and is a time.
    pub fn shape(&mut self, cursor: &str) -> Result<(), Violation> {
        if stamp::millis(cursor).is_none() {
            return Err(Violation::CursorShape { cursor: cursor.to_owned() });
        }
        let (expected, found) = (*self.width.get_or_insert(cursor.len()), cursor.len());
        if expected != found {
            return Err(Violation::CursorWidth { cursor: cursor.to_owned(), expected, found });
        }
        Ok(())
    }

    fn is_own(&self, change: &Change) -> bool {
        let writes = change.writes();
        !writes.is_empty() && writes.iter().all(|write| self.own.contains(&fingerprint(change, write)))
    }
}

/// Checks that stamps are written as `toISOString` does: existing clients compare them as strings.
pub fn spelling(change: &Change) -> Result<(), Violation> {
    let wrong = |write: &Write| !write.stamp.is_empty() && !stamp::is_canonical(&write.stamp);
    match change.writes().into_iter().find(wrong) {
        None => Ok(()),
        Some(Write { field, stamp: found, .. }) => {
            let (table, id) = (change.table.clone(), change.id.clone());
            Err(Violation::StampSpelling { table, id, field, found })
        }
    }
}

fn fingerprint(change: &Change, write: &Write) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&change.table, &change.id, &write.field, &write.stamp, write.value.to_string()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(cursor: &str, changes: serde_json::Value, has_more: bool) -> SyncAnswer {
        let value = json!({"serverChanges": changes, "conflicts": [], "syncedUntil": cursor, "hasMore": has_more});
        serde_json::from_value(value).unwrap()
    }

    fn change() -> serde_json::Value {
        json!({"table": "t", "id": "r", "op": "delete", "deletedAt": "2024-01-01T10:00:00.000Z"})
    }

    #[test]
    fn cursors_move_with_rows_and_never_back() {
        let since = Cursor::at("2024-01-01T10:00:00.000005Z");
        let asked = Asked { since: &since, table: Some("t") };
        let check = |cursor: &str, changes, more| Checks::default().answer(asked, &answer(cursor, changes, more));
        assert_eq!(check("2024-01-01T10:00:00.000006Z", json!([change()]), true), Ok(()));
        assert_eq!(check("2024-01-01T10:00:00.000005Z", json!([]), false), Ok(()));
        let stood = check("2024-01-01T10:00:00.000005Z", json!([change()]), false);
        assert!(matches!(stood, Err(Violation::CursorStood { .. })));
        let back = check("2024-01-01T10:00:00.000004Z", json!([]), false);
        assert!(matches!(back, Err(Violation::CursorWentBack { .. })));
        let stuck = check("2024-01-01T10:00:00.000005Z", json!([]), true);
        assert!(matches!(stuck, Err(Violation::NoProgress { .. })));
    }

    #[test]
    fn cursors_have_one_width() {
        let since = Cursor::default();
        let asked = Asked { since: &since, table: None };
        let mut checks = Checks::default();
        assert_eq!(checks.answer(asked, &answer("1970-01-01T00:00:00.000000Z", json!([]), false)), Ok(()));
        assert_eq!(checks.answer(asked, &answer("2024-01-01T10:00:00.000006Z", json!([]), false)), Ok(()));
        let narrow = checks.answer(asked, &answer("2024-01-01T10:00:01Z", json!([]), false));
        assert!(matches!(narrow, Err(Violation::CursorWidth { expected: 27, found: 20, .. })));
    }

    #[test]
    fn own_changes_come_back_in_a_walk_from_the_beginning_only() {
        let mut checks = Checks::default();
        checks.sent(&serde_json::from_value(change()).unwrap());
        let page = answer("2024-01-01T10:00:00.000006Z", json!([change()]), true);
        let cursor = Cursor::default();
        assert_eq!(checks.answer(Asked { since: &cursor, table: None }, &page), Ok(()));
        assert!(cursor.after(&page).initial_sync);
        let later = Cursor::at("2024-01-01T10:00:00.000001Z");
        let own = checks.answer(Asked { since: &later, table: None }, &page);
        assert!(matches!(own, Err(Violation::OwnChange { .. })));
    }

    #[test]
    fn stamps_are_spelled_one_way_and_tables_are_those_asked_for() {
        let spelled = json!({"table": "t", "id": "r", "op": "delete", "deletedAt": "2024-01-01T10:00:00Z"});
        let page = answer("2024-01-01T10:00:00.000006Z", json!([spelled]), false);
        let since = Cursor::default();
        let check = |table| Checks::default().answer(Asked { since: &since, table }, &page);
        assert!(matches!(check(None), Err(Violation::StampSpelling { .. })));
        assert!(matches!(check(Some("u")), Err(Violation::OtherTable { .. })));
    }
}
