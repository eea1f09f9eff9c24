//! Why a value is what it is: for each field of a record, who won, against whom, and who came too late.

use super::compaction::CompactionError;
use super::lifecycle::LoggedChange;
use crate::protocol::Stamp;
use crate::protocol::merge::Rank;
use std::collections::BTreeMap;

/// One write of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// JSON.
    pub value: String,
    /// The stamp.
    pub stamp: Stamp,
    /// The device that wrote it.
    pub device: String,
    /// Its position in the log, in microseconds: when it was stored.
    pub at: i64,
    /// When it was taken out of the log, in microseconds since 1970; none: it is in it.
    pub trimmed_at: Option<i64>,
}

impl Write {
    fn rank(&self) -> Rank {
        (self.stamp, self.at)
    }
}

/// What became of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name of the field.
    pub name: String,
    /// The value as it is. It is out of the log only if its record was purged.
    pub winner: Write,
    /// What was stored before and lost, the latest first.
    pub won_against: Vec<Write>,
    /// What was stored later, with a stamp that was earlier.
    pub came_too_late: Vec<Write>,
}

/// The fields of a record, by name, from all of its changes.
pub fn fields(changes: &[LoggedChange]) -> Result<Vec<Field>, CompactionError> {
    let mut writes: BTreeMap<String, Vec<Write>> = BTreeMap::new();
    for logged in changes {
        for (name, value, stamp) in logged.fields()? {
            let (device, at, trimmed_at) = (logged.client.clone(), logged.change.at, logged.trimmed_at);
            writes.entry(name).or_default().push(Write { value, stamp, device, at, trimmed_at });
        }
    }
    let judge = |(name, mut writes): (String, Vec<Write>)| {
        writes.sort_by_key(|write| std::cmp::Reverse(write.rank()));
        let winner = writes.remove(0);
        let (mut won_against, mut came_too_late): (Vec<_>, Vec<_>) =
            writes.into_iter().partition(|write| write.at < winner.at);
        won_against.sort_by_key(|write| std::cmp::Reverse(write.at));
        came_too_late.sort_by_key(|write| write.at);
        Field { name, winner, won_against, came_too_late }
    };
    Ok(writes.into_iter().map(judge).collect())
}
