//! A hint that something was stored.

use super::tables::Tables;
use crate::protocol::UserKey;
use crate::telemetry::traces::PushSpan;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Maximum size of the table names of a wake-up in bytes. A longer list is not kept: receivers look it up.
pub const MAX_NAMES: usize = 1_500;
/// Maximum number of sampled pushes that a wake-up names; deliveries are not linked to further ones.
pub const MAX_PUSHES: usize = 8;
/// Maximum number of ranges that a wake-up lists; more leave a gap that the reconciler closes.
const MAX_RANGES: usize = 16;
/// Maximum time that a position may be ahead of this replica's clock: clocks differ, and a large push reaches ahead.
const MAX_AHEAD: Duration = Duration::from_secs(300);
/// Approximate memory of a wake-up without its names, in bytes.
const FIXED_BYTES: usize = 256;

/// A hint that something was stored: who should pull what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wakeup {
    /// The user.
    pub user: UserKey,
    /// The app.
    pub app: Arc<str>,
    /// The device that stored it: its own sessions need no wake-up.
    pub client: Option<Arc<str>>,
    /// The tables that changed; `None` if the list was too long to send, and has to be looked up.
    pub tables: Option<Tables>,
    /// The ranges of the log that this announces: each from the head before it, exclusive, to its end.
    pub ranges: Vec<(i64, i64)>,
    /// The spans of the sampled pushes that this announces, [`MAX_PUSHES`] at most.
    pub pushes: Vec<PushSpan>,
}

impl Wakeup {
    /// Returns the last position that this announces.
    pub fn last(&self) -> i64 {
        self.ranges.iter().map(|(_, last)| *last).max().unwrap_or(0)
    }

    /// True if it announces what cannot have been stored yet, at this time since 1970.
    pub(super) fn is_beyond(&self, present: Duration) -> bool {
        let latest = present + MAX_AHEAD;
        self.last() > i64::try_from(latest.as_micros()).unwrap_or(i64::MAX)
    }

    /// Approximate memory it takes, in bytes. Bounded, as its parts are.
    pub(super) fn size(&self) -> usize {
        let tables: usize = self.tables.iter().flatten().map(|table| table.len() + 32).sum();
        FIXED_BYTES + self.app.len() + self.client.as_ref().map_or(0, |client| client.len()) + tables
    }

    /// Merges another wake-up of the same device in the same app. Takes no longer than its bounds allow.
    pub(super) fn merge(&mut self, other: Wakeup) {
        let room = MAX_PUSHES.saturating_sub(self.pushes.len());
        self.pushes.extend(other.pushes.into_iter().take(room));
        self.tables = match (self.tables.take(), other.tables) {
            (Some(tables), Some(more)) if tables == more => Some(tables),
            (Some(tables), Some(more)) => table_names(tables.iter().chain(&more).cloned()),
            _ => None,
        };
        for (from, to) in other.ranges {
            if let Some(before) = self.ranges.iter_mut().find(|(_, last)| *last == from) {
                before.1 = to;
            } else if self.ranges.len() < MAX_RANGES {
                self.ranges.push((from, to));
            }
        }
    }
}

/// Returns the names of a wake-up's tables, each once and in order; none if they are more than [`MAX_NAMES`] bytes.
pub fn table_names<T: AsRef<str> + Into<Arc<str>> + Ord>(names: impl IntoIterator<Item = T>) -> Option<Tables> {
    let (mut list, mut bytes) = (BTreeSet::new(), 0);
    for name in names {
        let length = name.as_ref().len();
        if list.insert(name) {
            bytes += length;
            if bytes > MAX_NAMES {
                return None;
            }
        }
    }
    Some(list.into_iter().map(Into::into).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn wakeup(user: &str, app: &str, client: Option<&str>, tables: &[&str]) -> Wakeup {
        Wakeup {
            user: UserKey::of(user),
            app: app.into(),
            client: client.map(Into::into),
            tables: Some(tables.iter().map(|table| (*table).into()).collect()),
            ranges: vec![(1_700_000_000_000_000, 1_700_000_000_000_020)],
            pushes: vec![],
        }
    }

    pub(in super::super) fn push_span(number: u128) -> PushSpan {
        PushSpan::parse(&format!("{:032x}-{:016x}", number + 1, number as u64 | 1)).unwrap()
    }

    #[test]
    fn tables_are_named_once_and_not_at_all_where_they_are_too_many() {
        assert_eq!(table_names(["b", "a", "b"]), Some(vec!["a".into(), "b".into()].into()));
        let many: Vec<String> = (0..60_000).map(|n| format!("table-{n}")).collect();
        assert_eq!(table_names(many.iter().map(String::as_str)), None);
    }

    #[test]
    fn merged_wake_ups_stay_small_whatever_they_name() {
        let names: Vec<String> = (0..150).map(|n| format!("table-{n:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut merged = wakeup("u", "a", None, &names[..100]);
        merged.merge(wakeup("u", "a", None, &names[50..]));
        assert_eq!(merged.tables.as_ref().map(|tables| tables.len()), Some(150));
        let other = ["x".repeat(255), "y".repeat(255)];
        merged.merge(wakeup("u", "a", None, &[&other[0], &other[1]]));
        assert_eq!(merged.tables, None, "more than may be named");
        merged.merge(wakeup("u", "a", None, &["tasks"]));
        assert_eq!(merged.tables, None, "what is not known stays so");
        for n in 0..100 {
            merged.merge(Wakeup { ranges: vec![(n * 4, n * 4 + 2)], ..wakeup("u", "a", None, &[]) });
        }
        assert_eq!(merged.ranges.len(), MAX_RANGES);
        assert!(merged.size() < 4_000);
    }

    #[test]
    fn what_is_beyond_the_present_is_seen() {
        let now = 1_700_000_000_000_000;
        for (ahead, beyond) in [(-1_000_000, false), (60_000_000, false), (3_600_000_000, true), (i64::MAX - now, true)]
        {
            let wakeup = Wakeup { ranges: vec![(0, 2), (2, now + ahead)], ..wakeup("u", "a", None, &[]) };
            assert_eq!(wakeup.is_beyond(Duration::from_micros(now as u64)), beyond, "{ahead}");
        }
    }
}
