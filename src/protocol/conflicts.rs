//! Finds the pushed values that lose to what others stored: the `conflicts` of an answer.
//!
//! Only the changes on the answer's page are considered; nothing more is read for it.

use super::json::ObjectWriter;
use super::merge::{Rank, StoredChange, UnreadableChange, read_fields};
use super::push::{NewChange, Push};
use super::stamp::Stamp;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

/// What is on the page of a record, and what was pushed of it.
#[derive(Debug, Default)]
struct Record<'a> {
    stored: Vec<&'a StoredChange>,
    /// With their positions.
    pushed: Vec<(&'a NewChange, i64)>,
}

/// The best value of a field on one side: its rank, and the value as JSON.
type Best<'a> = (Rank, Cow<'a, str>);

/// Returns the fields of a push for which others stored a winning value on this page, as JSON objects in the order of
/// the push.
///
/// `positions` are those of the push's changes. If a push writes a field more than once, its best value counts. The
/// objects have at most `budget` bytes together, so that an answer stays in proportion to its request; the rest is left
/// out.
///
/// A push may write millions of fields. So of one record after the other, only those fields are kept that are on the
/// page as well.
pub fn conflicts(
    push: &Push,
    positions: &[i64],
    page: &[StoredChange],
    budget: usize,
) -> Result<Vec<String>, UnreadableChange> {
    let mut records: HashMap<(&str, &str), Record<'_>> = HashMap::new();
    for change in page.iter().filter(|change| !change.is_own) {
        records.entry((&*change.table, &*change.record)).or_default().stored.push(change);
    }
    let mut order = Vec::new();
    for (change, at) in push.changes.iter().zip(positions) {
        let name = (change.table.as_str(), change.record.as_str());
        let Some(record) = records.get_mut(&name) else { continue };
        if record.pushed.is_empty() {
            order.push(name);
        }
        record.pushed.push((change, *at));
    }
    let mut found = Vec::new();
    let mut left = budget;
    for name in order {
        let record = records.remove(&name).unwrap_or_default();
        let winners = record.best_on_page()?;
        for (field, pushed) in record.best_pushed(&winners)? {
            let Some(winner) = winners.get(&field).filter(|winner| winner.0 > pushed.0) else { continue };
            let json = describe(name, &field, &pushed, winner);
            let Some(rest) = left.checked_sub(json.len()) else { return Ok(found) };
            left = rest;
            found.push(json);
        }
    }
    Ok(found)
}

impl<'a> Record<'a> {
    fn best_on_page(&self) -> Result<HashMap<Cow<'a, str>, Best<'a>>, UnreadableChange> {
        let mut best = HashMap::new();
        for change in &self.stored {
            for write in change.fields()? {
                let rank = (write.stamp, change.at);
                if best.get(&write.name).is_none_or(|best: &Best<'_>| rank > best.0) {
                    best.insert(write.name, (rank, write.value));
                }
            }
        }
        Ok(best)
    }

    /// The same of the push, only for these fields.
    fn best_pushed(
        &self,
        fields: &HashMap<Cow<'a, str>, Best<'a>>,
    ) -> Result<BTreeMap<Cow<'a, str>, Best<'a>>, UnreadableChange> {
        let mut best: BTreeMap<Cow<'a, str>, Best<'a>> = BTreeMap::new();
        for (change, at) in &self.pushed {
            let stored_at = Stamp::from_millis(at.div_euclid(1000));
            let writes = read_fields(change.op, change.data.as_deref(), &change.stamps, stored_at)
                .map_err(|source| UnreadableChange { at: *at, source })?;
            for write in writes.into_iter().filter(|write| fields.contains_key(&write.name)) {
                let rank = (write.stamp, *at);
                if best.get(&write.name).is_none_or(|best| rank > best.0) {
                    best.insert(write.name, (rank, write.value));
                }
            }
        }
        Ok(best)
    }
}

fn describe(record: (&str, &str), field: &str, pushed: &Best<'_>, winner: &Best<'_>) -> String {
    let mut json = ObjectWriter::new();
    json.text("table", record.0);
    json.text("id", record.1);
    json.text("field", field);
    json.raw("clientValue", &pushed.1);
    json.plain("clientTimestamp", pushed.0.0);
    json.raw("serverValue", &winner.1);
    json.plain("serverTimestamp", winner.0.0);
    json.finish()
}
