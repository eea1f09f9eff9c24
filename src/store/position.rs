//! Positions of stored rows.

/// The positions of the rows that a push added to its log, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The position of the first row.
    pub first: i64,
    /// The position of the last row: the head when they were stored.
    pub last: i64,
    /// The previous head; 0 if there was none.
    pub previous: i64,
}
