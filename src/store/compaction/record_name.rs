//! The name of a record.

/// A record's name within its log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RecordName {
    pub(super) table: String,
    pub(super) record: String,
}
