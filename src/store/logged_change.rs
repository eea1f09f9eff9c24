//! Changes as operators and commands see them.

use super::compaction::CompactionError;
use crate::protocol::Stamp;
use crate::protocol::merge::StoredChange;
use crate::protocol::push::Op;

/// A row of the log, or of the history.
#[derive(Clone, Debug)]
pub struct LoggedChange {
    /// The change.
    pub change: StoredChange,
    /// The device that wrote it.
    pub client: String,
    /// When it was trimmed from the log, in microseconds since 1970; `None` if it is still there.
    pub trimmed_at: Option<i64>,
}

impl LoggedChange {
    /// Returns the fields that it writes or wrote: name, JSON value, stamp. In the history, every row has its stamps
    /// stored separately, even an insert.
    pub fn fields(&self) -> Result<Vec<(String, String, Stamp)>, CompactionError> {
        let as_update;
        let change = match self.trimmed_at {
            None => &self.change,
            Some(_) => {
                as_update = StoredChange { op: Op::Update, ..self.change.clone() };
                &as_update
            }
        };
        let fields = change.fields()?.into_iter();
        Ok(fields.map(|write| (write.name.into_owned(), write.value.into_owned(), write.stamp)).collect())
    }
}
