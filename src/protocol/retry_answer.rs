//! What a retried push is told about its stamps: the same as the first time.

use super::Stamp;
use super::merge::{StoredChange, UnreadableChange};
use super::push::{Adjusted, NewChange, Op};

/// The stamps that were stored as earlier ones than claimed. `claimed` was read under
/// [`StampPolicy::AS_CLAIMED`](super::push::StampPolicy::AS_CLAIMED), and `stored` are the rows of its first attempt, in
/// the same order.
pub fn adjusted_as_stored(claimed: &[NewChange], stored: &[StoredChange]) -> Result<Vec<Adjusted>, UnreadableChange> {
    let mut adjusted = Vec::new();
    for (index, (claim, row)) in claimed.iter().zip(stored).enumerate() {
        // An insert without a stamp of its own counts as written when it was stored, on both sides.
        let claim = StoredChange {
            at: row.at,
            table: claim.table.clone(),
            record: claim.record.clone(),
            op: claim.op,
            data: claim.data.clone(),
            stamps: claim.stamps.clone(),
            held: None,
        };
        let mut note = |field: &str, updated_at: Stamp| {
            adjusted.push(Adjusted {
                index,
                table: claim.table.clone(),
                id: claim.record.clone(),
                field: field.to_owned(),
                updated_at,
            });
        };
        match claim.op {
            Op::Insert => {
                let stamps = (claim.carrier()?, row.carrier()?);
                if let (Some((name, claimed)), Some((_, stored))) = stamps
                    && stored < claimed
                {
                    note(name, stored);
                }
            }
            Op::Update | Op::Delete => {
                let stored = row.fields()?;
                for claimed in claim.fields()? {
                    let before = stored.iter().find(|write| write.name == claimed.name);
                    if let Some(before) = before.filter(|before| before.stamp < claimed.stamp) {
                        note(&claimed.name, before.stamp);
                    }
                }
            }
        }
    }
    Ok(adjusted)
}
