//! Finds the pushed values that lose to what others stored: the `conflicts` of an answer.
//!
//! Only the changes on the answer's page are considered; nothing more is read for it.

use super::json::ObjectWriter;
use super::merge::{Rank, StoredChange, UnreadableChange, read_fields};
use super::push::Push;
use super::stamp::Stamp;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A pushed value, and the value that wins against it.
#[derive(Debug)]
struct Contest {
    pushed: Rank,
    /// The value as JSON.
    value: String,
    /// The rank of the winner, and its value as JSON.
    winner: Option<(Rank, String)>,
}

/// Returns the fields of a push for which others stored a winning value on this page, as JSON objects in the order of
/// the push.
///
/// `positions` are those of the push's changes. If a push writes a field more than once, its best value counts. The
/// objects have at most `budget` bytes together, so that an answer stays in proportion to its request; the rest is left
/// out.
pub fn conflicts(
    push: &Push,
    positions: &[i64],
    page: &[StoredChange],
    budget: usize,
) -> Result<Vec<String>, UnreadableChange> {
    let on_page: HashSet<(&str, &str)> =
        page.iter().filter(|change| !change.is_own).map(|change| (&*change.table, &*change.record)).collect();
    if on_page.is_empty() {
        return Ok(Vec::new());
    }
    let mut order = Vec::new();
    let mut contests: HashMap<(&str, &str), BTreeMap<String, Contest>> = HashMap::new();
    for (change, at) in push.changes.iter().zip(positions) {
        let record = (change.table.as_str(), change.record.as_str());
        if !on_page.contains(&record) {
            continue;
        }
        let stored_at = Stamp::from_millis(at.div_euclid(1000));
        let writes = read_fields(change.op, change.data.as_deref(), &change.stamps, stored_at)
            .map_err(|source| UnreadableChange { at: *at, source })?;
        let fields = contests.entry(record).or_insert_with(|| {
            order.push(record);
            BTreeMap::new()
        });
        for write in writes {
            let rank = (write.stamp, *at);
            let known = fields.entry(write.name.clone().into_owned());
            let contest =
                known.or_insert_with(|| Contest { pushed: rank, value: write.value.to_string(), winner: None });
            if rank > contest.pushed {
                *contest = Contest { pushed: rank, value: write.value.into_owned(), winner: None };
            }
        }
    }
    find_winners(&mut contests, page)?;
    let mut found = Vec::new();
    let mut left = budget;
    for record in order {
        for (field, contest) in contests.remove(&record).unwrap_or_default() {
            let Some(json) = contest.describe(record, &field) else { continue };
            let Some(rest) = left.checked_sub(json.len()) else { return Ok(found) };
            left = rest;
            found.push(json);
        }
    }
    Ok(found)
}

fn find_winners<'a>(
    contests: &mut HashMap<(&'a str, &'a str), BTreeMap<String, Contest>>,
    page: &'a [StoredChange],
) -> Result<(), UnreadableChange> {
    for change in page.iter().filter(|change| !change.is_own) {
        let Some(fields) = contests.get_mut(&(&*change.table, &*change.record)) else { continue };
        for write in change.fields()? {
            let rank = (write.stamp, change.at);
            if let Some(contest) = fields.get_mut(&*write.name)
                && rank > contest.winner.as_ref().map_or(contest.pushed, |(rank, _)| *rank)
            {
                contest.winner = Some((rank, write.value.into_owned()));
            }
        }
    }
    Ok(())
}

impl Contest {
    fn describe(&self, record: (&str, &str), field: &str) -> Option<String> {
        let ((stamp, _), value) = self.winner.as_ref()?;
        let mut json = ObjectWriter::new();
        json.text("table", record.0);
        json.text("id", record.1);
        json.text("field", field);
        json.raw("clientValue", &self.value);
        json.plain("clientTimestamp", self.pushed.0);
        json.raw("serverValue", value);
        json.plain("serverTimestamp", stamp);
        Some(json.finish())
    }
}
