//! Where what was stored stands in its log.

/// Where the rows that a push added stand in their log, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The position of the first.
    pub first: i64,
    /// The position of the last: the head when they were stored.
    pub last: i64,
    /// The head before; 0 where there was none.
    pub previous: i64,
}
