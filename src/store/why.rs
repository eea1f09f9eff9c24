//! Explains the current values of a record: for each field, which write won, which it beat, and which came too late.
//!
//! A record may have been written a million times, so it is read twice in one snapshot: once to find the winners, and
//! once more for the latest losers, as many as fit.

use super::compaction::CompactionError;
use super::logged_change::LoggedChange;
use crate::protocol::Stamp;
use crate::protocol::merge::Rank;
use std::collections::BTreeMap;

/// Approximate bytes of a write besides its value.
const WRITE: usize = 160;

/// One write of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The value, as JSON.
    pub value: String,
    /// The stamp.
    pub stamp: Stamp,
    /// The device that wrote it.
    pub device: String,
    /// Its position in the log, in microseconds: when it was stored.
    pub at: i64,
    /// When it was trimmed from the log, in microseconds since 1970; `None` if it is still there.
    pub trimmed_at: Option<i64>,
}

/// The outcome for a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name of the field.
    pub name: String,
    /// The current value. It is trimmed from the log only if its record was purged.
    pub winner: Write,
    /// Writes stored before it that lost, the latest first.
    pub won_against: Lost,
    /// Writes stored after it, but with earlier stamps, the latest last.
    pub came_too_late: Lost,
}

/// Writes that lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// The latest of them.
    pub writes: Vec<Write>,
    /// The number of others.
    pub more: u64,
}

/// Limits on the losing writes that are kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum writes per field stored before the winner, and after it.
    pub writes: usize,
    /// Maximum bytes of all of them together.
    pub bytes: usize,
}

/// Finds the winners, from changes in any order.
#[derive(Debug, Default)]
pub struct Winners {
    /// The only field asked for.
    only: Option<String>,
    ranks: BTreeMap<String, Rank>,
    is_any: bool,
}

impl Winners {
    /// Creates an empty set, for all fields or for one.
    pub fn new(only: Option<&str>) -> Winners {
        Winners { only: only.map(str::to_owned), ..Winners::default() }
    }

    /// Adds a change.
    pub fn note(&mut self, logged: &LoggedChange) -> Result<(), CompactionError> {
        self.is_any = true;
        for (name, _, stamp) in logged.fields()? {
            if self.only.as_ref().is_some_and(|only| *only != name) {
                continue;
            }
            let rank = (stamp, logged.change.at);
            let best = self.ranks.entry(name).or_insert(rank);
            *best = rank.max(*best);
        }
        Ok(())
    }

    /// Returns true if there was any change.
    pub fn is_any(&self) -> bool {
        self.is_any
    }
}

/// Collects the losers, from a second pass over the same changes.
#[derive(Debug)]
pub struct Losers {
    limits: Limits,
    bytes: usize,
    fields: BTreeMap<String, Judged>,
}

#[derive(Debug)]
struct Judged {
    best: Rank,
    winner: Option<Write>,
    won_against: Latest,
    came_too_late: Latest,
}

/// The latest writes, by position and order of arrival.
#[derive(Debug, Default)]
struct Latest {
    writes: BTreeMap<(i64, u64), Write>,
    seen: u64,
}

impl Losers {
    /// Creates an empty collection.
    pub fn new(winners: Winners, limits: Limits) -> Losers {
        let judged =
            |best| Judged { best, winner: None, won_against: Latest::default(), came_too_late: Latest::default() };
        let fields = winners.ranks.into_iter().map(|(name, best)| (name, judged(best))).collect();
        Losers { limits, bytes: 0, fields }
    }

    /// Adds a change.
    pub fn note(&mut self, logged: &LoggedChange) -> Result<(), CompactionError> {
        for (name, value, stamp) in logged.fields()? {
            let Some(field) = self.fields.get_mut(&name) else { continue };
            let (device, at, trimmed_at) = (logged.client.clone(), logged.change.at, logged.trimmed_at);
            let write = Write { value, stamp, device, at, trimmed_at };
            if field.winner.is_none() && (stamp, at) == field.best {
                field.winner = Some(write);
                continue;
            }
            let side = if at < field.best.1 { &mut field.won_against } else { &mut field.came_too_late };
            side.add(write, self.limits, &mut self.bytes);
        }
        Ok(())
    }

    /// Returns the fields, by name.
    pub fn fields(self) -> Vec<Field> {
        let field = |(name, judged): (String, Judged)| {
            let (mut won_against, came_too_late) = (judged.won_against.end(), judged.came_too_late.end());
            won_against.writes.reverse();
            Some(Field { name, winner: judged.winner?, won_against, came_too_late })
        };
        self.fields.into_iter().filter_map(field).collect()
    }
}

impl Latest {
    fn add(&mut self, write: Write, limits: Limits, bytes: &mut usize) {
        self.seen += 1;
        let key = (write.at, self.seen);
        let is_full = self.writes.len() >= limits.writes;
        if is_full && self.writes.first_key_value().is_none_or(|(oldest, _)| *oldest > key) {
            return;
        }
        if is_full && let Some((_, oldest)) = self.writes.pop_first() {
            *bytes -= oldest.value.len() + WRITE;
        }
        let size = write.value.len() + WRITE;
        if *bytes + size <= limits.bytes {
            *bytes += size;
            self.writes.insert(key, write);
        }
    }

    fn end(self) -> Lost {
        let writes: Vec<Write> = self.writes.into_values().collect();
        Lost { more: self.seen - writes.len() as u64, writes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::merge::StoredChange;
    use crate::protocol::push::Op;
    use serde_json::json;

    fn change(at: i64, stamp: i64, value: &str) -> LoggedChange {
        let change = StoredChange {
            id: uuid::Uuid::from_u128(at as u128),
            at,
            table: "t".into(),
            record: "r".into(),
            op: Op::Update,
            data: Some(json!({ "f": value }).to_string()),
            stamps: json!({ "f": Stamp::from_millis(stamp).to_string() }).to_string(),
            extra: None,
            is_own: false,
            rows_trimmed: false,
        };
        LoggedChange { change, client: "phone".into(), trimmed_at: None }
    }

    fn story(changes: &[LoggedChange], limits: Limits) -> (Lost, Lost) {
        let mut winners = Winners::new(None);
        changes.iter().for_each(|change| winners.note(change).unwrap());
        let mut losers = Losers::new(winners, limits);
        changes.iter().for_each(|change| losers.note(change).unwrap());
        let held: usize = losers.fields["f"].won_against.writes.values().map(|write| write.value.len() + WRITE).sum();
        let late: usize = losers.fields["f"].came_too_late.writes.values().map(|write| write.value.len() + WRITE).sum();
        assert!(held + late == losers.bytes && losers.bytes <= limits.bytes);
        let field = losers.fields().remove(0);
        assert_eq!((field.winner.at, &*field.winner.value), (100, "\"wins\""));
        (field.won_against, field.came_too_late)
    }

    fn positions(lost: &Lost) -> Vec<i64> {
        lost.writes.iter().map(|write| write.at).collect()
    }

    #[test]
    fn of_what_lost_the_latest_are_kept_whatever_the_order_they_come_in() {
        let mut changes: Vec<LoggedChange> = (1..10).map(|n| change(n, n, "before")).collect();
        changes.extend((101..110).map(|n| change(n, 50 - n, "late")));
        changes.push(change(100, 1_000, "wins"));
        let limits = Limits { writes: 3, bytes: 1 << 20 };
        for _ in 0..2 {
            let (before, late) = story(&changes, limits);
            assert_eq!((positions(&before), before.more), (vec![9, 8, 7], 6));
            assert_eq!((positions(&late), late.more), (vec![107, 108, 109], 6));
            changes.reverse();
        }
        let (before, late) = story(&changes, Limits { writes: 0, bytes: 1 << 20 });
        assert_eq!((before.writes.len(), before.more, late.more), (0, 9, 9));
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let mut changes: Vec<LoggedChange> = (1..20).map(|n| change(n, n, &"x".repeat(1_000))).collect();
        changes.push(change(100, 1_000, "wins"));
        let (before, late) = story(&changes, Limits { writes: 100, bytes: 4_000 });
        assert_eq!((before.writes.len(), before.more, late.more), (3, 16, 0));
        let (before, _) = story(&changes, Limits { writes: 2, bytes: 4_000 });
        assert_eq!((positions(&before), before.more), (vec![19, 18], 17), "what gives way leaves room");
    }
}
