//! Which record of a log.

/// Names a record within its log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RecordName {
    pub(super) table: String,
    pub(super) record: String,
}
