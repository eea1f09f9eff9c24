//! What a reader asks for: a page of a log.

use crate::protocol::Cursor;
use uuid::Uuid;

/// Which of its own changes a device receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnChanges<'a> {
    /// None.
    Without,
    /// For a push on an initial sync: those stored before a position, except the rows of the push itself.
    BesidePush {
        /// The head before the push, in microseconds.
        before: i64,
        /// The ids of the push's rows.
        rows: &'a [Uuid],
    },
    /// On an initial sync: all.
    All,
}

impl OwnChanges<'_> {
    /// Returns what a reader at this cursor receives.
    pub fn at(since: Cursor) -> OwnChanges<'static> {
        if since.is_initial_sync() { OwnChanges::All } else { OwnChanges::Without }
    }

    /// The same for a reader that has to start over because the database went back to an earlier state.
    pub(super) fn begun_anew(self) -> Self {
        if self == OwnChanges::Without { OwnChanges::All } else { self }
    }

    pub(super) fn is_initial_sync(self) -> bool {
        self != OwnChanges::Without
    }

    /// Returns true if the device has just stored changes that are not sent to it.
    pub(super) fn is_answer(self) -> bool {
        matches!(self, OwnChanges::BesidePush { .. })
    }

    /// Returns the position before which own changes are read.
    pub(super) fn limit(self) -> i64 {
        match self {
            OwnChanges::Without => 0,
            OwnChanges::BesidePush { before, .. } => before,
            OwnChanges::All => PAST_ALL,
        }
    }
}

/// Past any cursor, in microseconds, and within the range of timestamptz.
pub(super) const PAST_ALL: i64 = 253_402_300_799_000_000;

/// A request for a page of a log.
#[derive(Clone, Debug)]
pub struct PageRequest<'a> {
    /// The position to start from.
    pub since: Cursor,
    /// The device that reads.
    pub reader: Option<&'a str>,
    /// Which of the reader's own changes to include.
    pub own: OwnChanges<'a>,
    /// Only these tables; `None` means all.
    pub tables: Option<&'a [String]>,
    /// True if the page is for a response; its changes are then serialized as they arrive.
    pub is_for_answer: bool,
}
