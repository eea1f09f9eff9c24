//! The comparison at the end: everyone with the fold of the stored rows (or, without a database, with the first
//! device), the stream with the rows in order, and the rows with what was sent.

use std::fmt;

use crate::fold::{FoldError, Row};
use crate::protocol::Change;
use crate::snapshot::{Difference, Snapshot, same};

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// Two participants that must hold the same records don't.
    Differs { who: String, against: String, difference: Difference },
    /// Changes were stored twice, or not at all.
    Stored { sent: usize, stored: usize },
    /// More or fewer changes arrived over the stream than were stored.
    StreamedCount { expected: usize, streamed: usize },
    /// The stream's change at this index (from 0) is not the one stored at it.
    StreamedOrder { place: usize, stored: Box<Change>, streamed: Box<Change> },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = |change: &Change| serde_json::to_string(change).unwrap_or_default();
        match self {
            Self::Differs { who, against, difference } => write!(f, "{difference} ({who} against {against})"),
            Self::Stored { sent, stored } => write!(f, "{sent} changes were sent and answered, {stored} are stored"),
            Self::StreamedCount { expected, streamed } => {
                write!(f, "the stream delivered {streamed} of {expected} changes")
            }
            Self::StreamedOrder { place, stored, streamed } => {
                write!(f, "change {place} of the stream is {}, but the stored one is {}", wire(streamed), wire(stored))
            }
        }
    }
}

/// A participant's records.
pub struct Holder {
    pub name: String,
    pub snapshot: Snapshot,
}

/// Compares everyone with the first, up to `limit` findings.
pub fn compare(holders: &[Holder], limit: usize) -> Vec<Finding> {
    let Some((reference, others)) = holders.split_first() else { return Vec::new() };
    let mut findings = Vec::new();
    for other in others {
        let differences = other.snapshot.differences(&reference.snapshot, limit - findings.len());
        findings.extend(differences.into_iter().map(|difference| Finding::Differs {
            who: other.name.clone(),
            against: reference.name.clone(),
            difference,
        }));
    }
    findings
}

/// Checks that the stream brought each stored row once, and those of each table in order. Indexes count the rows of all
/// tables, table by table.
pub fn compare_stream(rows: &[Row], streamed: &[Change]) -> Result<Option<Finding>, FoldError> {
    let (mut rows, mut streamed): (Vec<&Row>, Vec<&Change>) = (rows.iter().collect(), streamed.iter().collect());
    rows.sort_by_key(|row| &row.table_name);
    streamed.sort_by_key(|change| &change.table);
    for (place, (row, &streamed)) in rows.iter().zip(&streamed).enumerate() {
        let stored = row.as_change()?;
        if !same_change(&stored, streamed) {
            let (stored, streamed) = (Box::new(stored), Box::new(streamed.clone()));
            return Ok(Some(Finding::StreamedOrder { place, stored, streamed }));
        }
    }
    let (expected, streamed) = (rows.len(), streamed.len());
    Ok((expected != streamed).then_some(Finding::StreamedCount { expected, streamed }))
}

fn same_change(left: &Change, right: &Change) -> bool {
    let writes = |change: &Change| {
        let mut writes = change.writes();
        writes.sort_by(|a, b| a.field.cmp(&b.field));
        writes
    };
    let (first, second) = (writes(left), writes(right));
    (&left.table, &left.id, first.len()) == (&right.table, &right.id, second.len())
        && first
            .iter()
            .zip(&second)
            .all(|(a, b)| a.field == b.field && a.stamp == b.stamp && same(&a.field, Some(&a.value), Some(&b.value)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holder(name: &str, value: i64) -> Holder {
        let snapshot = Snapshot(serde_json::from_value(json!({"t": {"r": {"a": value}}})).unwrap());
        Holder { name: name.to_owned(), snapshot }
    }

    #[test]
    fn who_differs_is_named() {
        assert!(compare(&[holder("fold", 1), holder("d1", 1)], 5).is_empty());
        let findings = compare(&[holder("fold", 1), holder("d1", 1), holder("d2", 2)], 5);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].to_string(), "t / r / a: 2 against 1 (d2 against fold)");
    }
}
