//! What a device is sent, so that existing clients converge (G3).
//!
//! Existing clients apply changes in the order received and take a value if its stamp's string is not below the
//! one they hold. Sent unchanged, the log would lead them astray in two cases:
//!
//! 1. **The device's own write wins.** A value that ties with the device's own and was stored earlier would be
//!    taken though it lost. Such a field is left out: the device has the winning value, for it wrote it.
//! 2. **The device holds a stamp that is too late.** It was ahead of the server by more than the allowed skew, its
//!    stamp was stored as an earlier one, and existing clients do not know `adjusted`: it would refuse values that
//!    win. The store keeps the stamp that the device holds, and a value that wins is sent to that device with this
//!    stamp. From there on the string no longer tells winners from losers, so a value that loses to an earlier one
//!    is left out.
//!
//! Both concern only fields that the reading device itself wrote; everyone else is sent the log as it is.

use super::push::Op;
use super::push::wire::{Carriers, Members, Object};
use super::stamp::Stamp;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;

/// A change as it is stored.
#[derive(Clone, Debug)]
pub struct StoredChange {
    /// Its position in the log, in microseconds.
    pub at: i64,
    pub table: String,
    pub record: String,
    pub op: Op,
    /// JSON; see [`super::push::NewChange`].
    pub data: Option<String>,
    /// JSON; see [`super::push::NewChange`].
    pub stamps: String,
    /// JSON; see [`super::push::NewChange`]. Loaded for a device's own changes only.
    pub held: Option<String>,
}

/// A stored change which cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("the change stored at {at} µs cannot be read")]
pub struct UnreadableChange {
    at: i64,
    #[source]
    source: serde_json::Error,
}

/// One field that a change writes.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldWrite<'a> {
    pub name: Cow<'a, str>,
    /// JSON.
    pub value: Cow<'a, str>,
    pub stamp: Stamp,
}

/// The order of two writes of one field: the later stamp wins, and of equal stamps the one stored later.
type Rank = (Stamp, i64);

impl StoredChange {
    /// The stamp that fields get for which none is stored: the time of storing.
    fn stored_at(&self) -> Stamp {
        Stamp::from_millis(self.at.div_euclid(1000))
    }

    /// The member that carries an insert's stamp, and the stamp.
    pub fn carrier(&self) -> Result<Option<(&'static str, Stamp)>, UnreadableChange> {
        let data = self.data.as_deref().unwrap_or("{}");
        let carriers: Result<Object<Carriers<'_>>, _> = serde_json::from_str(data);
        let Object(carriers) = carriers.map_err(|source| UnreadableChange { at: self.at, source })?;
        Ok(carriers.stamp().map(|(name, _, stamp)| (name, stamp)))
    }

    /// The fields that this change writes.
    pub fn fields(&self) -> Result<Vec<FieldWrite<'_>>, UnreadableChange> {
        self.read_fields().map_err(|source| UnreadableChange { at: self.at, source })
    }

    fn read_fields(&self) -> Result<Vec<FieldWrite<'_>>, serde_json::Error> {
        let data = self.data.as_deref().unwrap_or("{}");
        if self.op == Op::Insert {
            let Object(carriers): Object<Carriers<'_>> = serde_json::from_str(data)?;
            let stamp = carriers.stamp().map_or(self.stored_at(), |(_, _, stamp)| stamp);
            let members: Members<'_, &RawValue> = serde_json::from_str(data)?;
            let write =
                |(name, value): (_, &'_ RawValue)| FieldWrite { name, value: value.get().to_owned().into(), stamp };
            return Ok(members.0.into_iter().map(write).collect());
        }
        let stamps: HashMap<Cow<'_, str>, Cow<'_, str>> = serde_json::from_str(&self.stamps)?;
        let stamp_of =
            |name: &str| stamps.get(name).and_then(|text| Stamp::parse(text).ok()).unwrap_or(self.stored_at());
        if self.op == Op::Delete {
            let stamp = stamp_of("deletedAt");
            return Ok(vec![FieldWrite { name: "deletedAt".into(), value: format!("\"{stamp}\"").into(), stamp }]);
        }
        let members: Members<'_, &RawValue> = serde_json::from_str(data)?;
        let write = |(name, value): (Cow<'_, str>, &RawValue)| FieldWrite {
            stamp: stamp_of(&name),
            name: name.into_owned().into(),
            value: value.get().to_owned().into(),
        };
        Ok(members.0.into_iter().map(write).collect())
    }
}

/// How one change goes out to one device.
#[derive(Debug, PartialEq, Eq)]
pub enum View<'a> {
    /// As it is stored.
    Whole,
    /// As an update of these fields.
    Fields(Vec<FieldWrite<'a>>),
    /// Not at all: the device has better.
    Nothing,
}

/// What the reading device itself wrote to the records on a page, and what others wrote there before.
#[derive(Debug, Default)]
pub struct OwnWrites {
    records: HashMap<(String, String), RecordWrites>,
}

#[derive(Debug, Default)]
struct RecordWrites {
    own: HashMap<String, OwnField>,
    /// The best that others wrote, over all that was stored before the change being looked at.
    others: HashMap<String, Rank>,
}

#[derive(Debug)]
struct OwnField {
    best: Rank,
    /// The stamp that the device holds, where it is later than the one stored.
    held: Option<Stamp>,
}

impl OwnWrites {
    /// Takes note of a change that the reading device stored.
    pub fn add_own(&mut self, change: &StoredChange) -> Result<(), UnreadableChange> {
        let held: HashMap<String, String> = match &change.held {
            None => HashMap::new(),
            Some(json) => serde_json::from_str(json).map_err(|source| UnreadableChange { at: change.at, source })?,
        };
        let record = self.records.entry((change.table.clone(), change.record.clone())).or_default();
        for write in change.fields()? {
            let claimed =
                held.get(&*write.name).and_then(|text| Stamp::parse(text).ok()).filter(|at| *at > write.stamp);
            let rank = (write.stamp, change.at);
            let field = record.own.entry(write.name.into_owned()).or_insert(OwnField { best: rank, held: claimed });
            field.best = field.best.max(rank);
            field.held = field.held.max(claimed);
        }
        Ok(())
    }

    /// Takes note of a change that others stored before the page, so that what loses to it is known.
    pub fn add_earlier(&mut self, change: &StoredChange) -> Result<(), UnreadableChange> {
        if let Some(record) = self.records.get_mut(&(change.table.clone(), change.record.clone())) {
            record.note(&change.fields()?, change.at);
        }
        Ok(())
    }

    /// The records for which [`add_earlier`](OwnWrites::add_earlier) must have been told the history before
    /// [`view`](OwnWrites::view) is asked: those where the device holds a stamp that is too late.
    pub fn needs_history(&self) -> Vec<(&str, &str)> {
        let too_late = |record: &RecordWrites| record.own.values().any(|field| field.held.is_some());
        self.records
            .iter()
            .filter(|(_, record)| too_late(record))
            .map(|((table, record), _)| (table.as_str(), record.as_str()))
            .collect()
    }

    /// How `change`, the next one in the order of the log, goes out to the device.
    pub fn view<'a>(&mut self, change: &'a StoredChange) -> Result<View<'a>, UnreadableChange> {
        if self.records.is_empty() {
            return Ok(View::Whole);
        }
        let Some(record) = self.records.get_mut(&(change.table.clone(), change.record.clone())) else {
            return Ok(View::Whole);
        };
        let mut writes = change.fields()?;
        let ranks: Vec<Option<Stamp>> = writes.iter().map(|write| record.sent_as(write, change.at)).collect();
        record.note(&writes, change.at);
        if writes.iter().zip(&ranks).all(|(write, sent)| *sent == Some(write.stamp)) {
            return Ok(View::Whole);
        }
        let mut ranks = ranks.into_iter();
        writes.retain_mut(|write| match ranks.next().flatten() {
            None => false,
            Some(stamp) => {
                write.stamp = stamp;
                true
            }
        });
        Ok(if writes.is_empty() { View::Nothing } else { View::Fields(writes) })
    }
}

impl RecordWrites {
    /// The stamp to send a field with, or none if the field is to be left out.
    fn sent_as(&self, write: &FieldWrite<'_>, at: i64) -> Option<Stamp> {
        let rank = (write.stamp, at);
        let Some(own) = self.own.get(&*write.name) else { return Some(write.stamp) };
        if own.best.0 == write.stamp && own.best.1 > at {
            return None;
        }
        match own.held {
            Some(held) if write.stamp < held && own.best < rank => {
                let loses = self.others.get(&*write.name).is_some_and(|best| *best > rank);
                (!loses).then_some(held)
            }
            _ => Some(write.stamp),
        }
    }

    fn note(&mut self, writes: &[FieldWrite<'_>], at: i64) {
        for write in writes {
            let rank = (write.stamp, at);
            match self.others.get_mut(&*write.name) {
                Some(best) => *best = rank.max(*best),
                None => {
                    self.others.insert(write.name.clone().into_owned(), rank);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
