//! Decides what a device is sent, so that existing clients converge (G3).
//!
//! Existing clients apply changes in the order received and take a value if its stamp, compared as a string, is not
//! lower than the one they hold; some take everything they receive. The unmodified log would mislead them in three
//! cases:
//!
//! 1. **The device's own later write wins.** A value that the device itself has since replaced, by a write stored later
//!    with a stamp that is not lower, is left out: the device has the winning value, or gets it instead. That goes for
//!    what others wrote, and in an initial sync for what the device itself wrote: an engine that takes everything it
//!    receives would lose an edit made since.
//! 2. **The device holds a stamp that is too late.** It was ahead of the server by more than the allowed skew, and was
//!    stored as an earlier one; existing clients do not know `adjusted`, so the device would refuse values that win.
//!    The store keeps the stamp that the device holds, and a winning value is sent to that device with this stamp. From
//!    then on the string no longer tells winners from losers, so a value that loses to an earlier one is left out.
//! 3. **A delete before anything else.** Existing clients ignore the delete of a record they do not have. If the first
//!    case may have left out everything before the delete, it is sent as a write of `deletedAt`, which they do not
//!    ignore. In an initial sync that continues after rows of the record were trimmed, it is no longer known what was
//!    left out on earlier pages; there it is sent the same way.
//!
//! These cases only concern records that the reading device itself wrote; everyone else is sent the log as it is.

use super::push::Op;
use super::push::wire::{Carrier, InsertMembers, Members, Text};
use super::stamp::Stamp;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use uuid::Uuid;

/// A stored change.
#[derive(Clone, Debug)]
pub struct StoredChange {
    /// Its row's id: the same whichever way it is read.
    pub id: Uuid,
    /// Its position in the log, in microseconds.
    pub at: i64,
    /// The table.
    pub table: String,
    /// The record.
    pub record: String,
    /// The operation.
    pub op: Op,
    /// JSON; see [`super::push::NewChange`].
    pub data: Option<String>,
    /// JSON; see [`super::push::NewChange`].
    pub stamps: String,
    /// JSON; see [`super::push::NewChange`].
    pub extra: Option<String>,
    /// True if the reader stored it itself.
    pub is_own: bool,
    /// For a delete: true if rows of its record were trimmed after it was stored.
    pub rows_trimmed: bool,
}

/// A stored change that cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("the change stored at {at} µs cannot be read")]
pub struct UnreadableChange {
    pub(super) at: i64,
    #[source]
    pub(super) source: serde_json::Error,
}

/// A write of one field.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldWrite<'a> {
    /// The name of the field.
    pub name: Cow<'a, str>,
    /// The value as JSON.
    pub value: Cow<'a, str>,
    /// Its stamp.
    pub stamp: Stamp,
}

/// Orders writes of one field: the later stamp wins, and of equal stamps the one stored later.
pub type Rank = (Stamp, i64);

impl StoredChange {
    /// The stamp of fields stored without one: the time of storing.
    fn stored_at(&self) -> Stamp {
        Stamp::from_millis(self.at.div_euclid(1000))
    }

    fn unreadable(&self) -> impl Fn(serde_json::Error) -> UnreadableChange + use<> {
        let at = self.at;
        move |source| UnreadableChange { at, source }
    }

    /// True if every existing client finds the stamp of an insert's fields where we do.
    pub fn has_plain_stamp(&self) -> Result<bool, UnreadableChange> {
        let data = self.data.as_deref().unwrap_or("{}");
        let members: InsertMembers<'_> = serde_json::from_str(data).map_err(self.unreadable())?;
        Ok(members.carrier().is_some_and(|carrier| carrier.is_first))
    }

    /// Returns how it is sent to readers that wrote nothing to its record.
    pub fn view_of_others(&self) -> Result<View<'_>, UnreadableChange> {
        // Existing clients would stamp such an insert with the time of receipt, or with something that is not a stamp.
        if self.op == Op::Insert && !self.has_plain_stamp()? {
            return Ok(View::Fields(self.fields()?));
        }
        Ok(View::Whole)
    }

    /// Returns the names of the fields that this change writes.
    pub fn field_names(&self) -> Result<Vec<Cow<'_, str>>, UnreadableChange> {
        if self.op == Op::Delete {
            return Ok(vec!["deletedAt".into()]);
        }
        let data = self.data.as_deref().unwrap_or("{}");
        let members: Members<'_, IgnoredAny> = serde_json::from_str(data).map_err(self.unreadable())?;
        Ok(members.0.into_iter().map(|(name, _)| name).collect())
    }

    /// Returns the fields that this change writes.
    pub fn fields(&self) -> Result<Vec<FieldWrite<'_>>, UnreadableChange> {
        read_fields(self.op, self.data.as_deref(), &self.stamps, self.stored_at()).map_err(self.unreadable())
    }
}

/// Returns the fields that a change writes. `stored_at` is the stamp of those stored without one.
pub(super) fn read_fields<'a>(
    op: Op,
    data: Option<&'a str>,
    stamps: &str,
    stored_at: Stamp,
) -> Result<Vec<FieldWrite<'a>>, serde_json::Error> {
    let data = data.unwrap_or("{}");
    if op == Op::Insert {
        let members: InsertMembers<'_> = serde_json::from_str(data)?;
        let stamp = members.carrier().map_or(Stamp::EPOCH, |Carrier { stamp, .. }| stamp);
        let members: Members<'_, &RawValue> = serde_json::from_str(data)?;
        let write = |(name, value): (_, &'a RawValue)| FieldWrite { name, value: value.get().into(), stamp };
        return Ok(members.0.into_iter().map(write).collect());
    }
    let mut stamps = Stamps::read(stamps)?;
    if op == Op::Delete {
        let stamp = stamps.of(0, "deletedAt").unwrap_or(stored_at);
        return Ok(vec![FieldWrite { name: "deletedAt".into(), value: format!("\"{stamp}\"").into(), stamp }]);
    }
    let members: Members<'_, &RawValue> = serde_json::from_str(data)?;
    let write = |(place, (name, value)): (usize, (Cow<'a, str>, &'a RawValue))| FieldWrite {
        stamp: stamps.of(place, &name).unwrap_or(stored_at),
        name,
        value: value.get().into(),
    };
    Ok(members.0.into_iter().enumerate().map(write).collect())
}

/// The stamps of a change's fields. They usually come in the order of the fields, because `jsonb` orders both alike.
struct Stamps<'a> {
    in_order: Vec<(Cow<'a, str>, Text<'a>)>,
    /// The last position of each name; built once a name was not at the expected place.
    places: Option<HashMap<String, usize>>,
}

impl<'a> Stamps<'a> {
    fn read(json: &'a str) -> Result<Stamps<'a>, serde_json::Error> {
        let Members(in_order) = serde_json::from_str(json)?;
        Ok(Stamps { in_order, places: None })
    }

    /// Returns the stamp of the field with this name, which is the field at `place`; none if it has no readable stamp.
    fn of(&mut self, place: usize, name: &str) -> Option<Stamp> {
        let place = match self.in_order.get(place) {
            Some((found, _)) if found == name => place,
            _ => {
                let names = || self.in_order.iter().enumerate().map(|(at, (name, _))| (name.to_string(), at)).collect();
                *self.places.get_or_insert_with(names).get(name)?
            }
        };
        let (_, Text(stamp)) = self.in_order.get(place)?;
        Stamp::parse(stamp).ok()
    }
}

/// Returns the fields of a stored change whose stamps were adjusted, and their stored stamp; none if there are none.
///
/// `claimed` are the claimed stamps by field, and `stamps` the stored ones; for an insert (`is_insert`), `stamps` are
/// the members that may carry its stamp.
pub fn adjusted_stamp(
    is_insert: bool,
    claimed: &str,
    stamps: &str,
    at: i64,
) -> Result<Option<(Vec<String>, Stamp)>, UnreadableChange> {
    let unreadable = |source| UnreadableChange { at, source };
    if is_insert {
        let members: InsertMembers<'_> = serde_json::from_str(stamps).map_err(unreadable)?;
        return Ok(members.carrier().map(|carrier| (vec![carrier.name.to_owned()], carrier.stamp)));
    }
    let claimed: HashMap<Text<'_>, Text<'_>> = serde_json::from_str(claimed).map_err(unreadable)?;
    let stamps: HashMap<Text<'_>, Text<'_>> = serde_json::from_str(stamps).map_err(unreadable)?;
    let stamp = claimed.keys().find_map(|field| Stamp::parse(&stamps.get(field)?.0).ok());
    let mut fields: Vec<String> = claimed.into_keys().map(|Text(field)| field.into_owned()).collect();
    fields.sort();
    Ok(stamp.map(|stamp| (fields, stamp)))
}

/// The form in which a change is sent to a device.
#[derive(Debug, PartialEq, Eq)]
pub enum View<'a> {
    /// As it is stored.
    Whole,
    /// As an update of these fields.
    Fields(Vec<FieldWrite<'a>>),
    /// Not at all: the device has a better value.
    Nothing,
}

/// Approximate memory of one write without its names, including the row it was read from, in bytes.
pub const WRITE_SIZE: usize = 384;

/// The reading device's own writes to the records on a page, and what others wrote there before.
#[derive(Debug, Default)]
pub struct OwnWrites {
    records: HashMap<(String, String), RecordWrites>,
    initial_sync: bool,
    /// True if the page continues an initial sync of a device that may have written.
    goes_on: bool,
}

#[derive(Debug, Default)]
struct RecordWrites {
    own: HashMap<String, OwnField>,
    /// The last position at which the device wrote the record.
    last: i64,
}

#[derive(Debug)]
struct OwnField {
    best: Rank,
    /// The stamp that the device holds, if it is later than the stored one.
    claimed: Option<Stamp>,
    /// The best write by anybody that was stored before the current change.
    earlier: Option<Rank>,
}

impl OwnWrites {
    /// Creates an empty set, for a device in an initial sync or not.
    pub fn new(initial_sync: bool) -> OwnWrites {
        OwnWrites { records: HashMap::new(), initial_sync, goes_on: false }
    }

    /// Marks the page as following another one, if `after_a_page`. That page may have left something out because of
    /// writes of the device that have been trimmed since.
    pub fn going_on(self, after_a_page: bool) -> OwnWrites {
        OwnWrites { goes_on: self.initial_sync && after_a_page, ..self }
    }

    /// Notes that the reading device wrote a record, and the last position at which it did. Must be called for every
    /// record on the page that it wrote, whichever fields.
    pub fn add_record(&mut self, record: (&str, &str), last: i64) {
        let record = self.records.entry((record.0.to_owned(), record.1.to_owned())).or_default();
        record.last = record.last.max(last);
    }

    /// Notes a field that the reading device wrote: the best it stored, and the stamp it holds if that is later. Fields
    /// that no change on the page writes may be omitted.
    pub fn add_own(&mut self, record: (&str, &str), field: &str, best: Rank, claimed: Option<Stamp>) {
        let record = self.records.entry((record.0.to_owned(), record.1.to_owned())).or_default();
        let claimed = claimed.filter(|claimed| *claimed > best.0);
        let known = record.own.entry(field.to_owned()).or_insert(OwnField { best, claimed, earlier: None });
        known.best = known.best.max(best);
        known.claimed = known.claimed.max(claimed);
    }

    /// Notes the best write to a field before the page, by anybody, so that what loses to it is known. Must be called
    /// for fields for which the device holds a stamp that is too late, after they were added.
    pub fn add_earlier(&mut self, record: (&str, &str), field: &str, best: Rank) {
        if let Some(record) = self.records.get_mut(&(record.0.to_owned(), record.1.to_owned())) {
            record.note(field, best);
        }
    }

    /// True if the device wrote nothing to the records on the page, and nothing was left out on earlier pages.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && !self.goes_on
    }

    /// Approximate memory that it takes, and took while it was read, in bytes.
    pub fn size(&self) -> usize {
        let of_record = |((table, record), writes): (&(String, String), &RecordWrites)| {
            let fields: usize = writes.own.keys().map(|name| 2 * name.len() + WRITE_SIZE).sum();
            table.len() + record.len() + WRITE_SIZE + fields
        };
        self.records.iter().map(of_record).sum()
    }

    /// True if, as far as its writes are known, the device itself has replaced everything that these changes write:
    /// then none of it is sent, whatever else the device wrote.
    pub fn has_replaced_all<'a>(
        &self,
        mut changes: impl Iterator<Item = &'a StoredChange>,
    ) -> Result<bool, UnreadableChange> {
        let has_replaced = |change: &StoredChange| {
            let Some(record) = self.records.get(&(change.table.clone(), change.record.clone())) else {
                return Ok(false);
            };
            let replaces =
                |write: &FieldWrite<'_>| record.own.get(&*write.name).is_some_and(|own| own.replaces(write, change.at));
            Ok(change.fields()?.iter().all(replaces))
        };
        changes.try_fold(true, |all, change| Ok(all && has_replaced(change)?))
    }

    /// Returns how `change`, the next one in log order, is sent to the device.
    pub fn view<'a>(&mut self, change: &'a StoredChange) -> Result<View<'a>, UnreadableChange> {
        match self.view_of_own_records(change)? {
            View::Whole if self.may_lack_record(change) => Ok(View::Fields(change.fields()?)),
            View::Whole => change.view_of_others(),
            view => Ok(view),
        }
    }

    /// True if that may differ from how the change is sent to others.
    pub fn concern(&self, change: &StoredChange) -> bool {
        self.may_lack_record(change)
            || !self.records.is_empty() && self.records.contains_key(&(change.table.clone(), change.record.clone()))
    }

    /// True for a delete if changes to its record may have been left out on an earlier page.
    fn may_lack_record(&self, change: &StoredChange) -> bool {
        change.op == Op::Delete && change.rows_trimmed && self.goes_on
    }

    fn view_of_own_records<'a>(&mut self, change: &'a StoredChange) -> Result<View<'a>, UnreadableChange> {
        if self.records.is_empty() {
            return Ok(View::Whole);
        }
        let Some(record) = self.records.get_mut(&(change.table.clone(), change.record.clone())) else {
            return Ok(View::Whole);
        };
        let mut writes = change.fields()?;
        let sent: Vec<Option<Stamp>> = writes.iter().map(|write| record.sent_as(write, change.at)).collect();
        writes.iter().for_each(|write| record.note(&write.name, (write.stamp, change.at)));
        let is_whole = writes.iter().zip(&sent).all(|(write, sent)| *sent == Some(write.stamp));
        let may_be_unknown = self.initial_sync && change.op == Op::Delete && record.last > change.at;
        if is_whole && !may_be_unknown {
            return Ok(View::Whole);
        }
        let mut sent = sent.into_iter();
        writes.retain_mut(|write| match sent.next().flatten() {
            None => false,
            Some(stamp) => {
                write.stamp = stamp;
                true
            }
        });
        Ok(if writes.is_empty() && !is_whole { View::Nothing } else { View::Fields(writes) })
    }
}

impl OwnField {
    /// True if the device stored a better value after this write.
    fn replaces(&self, write: &FieldWrite<'_>, at: i64) -> bool {
        self.best.0 >= write.stamp && self.best.1 > at
    }
}

impl RecordWrites {
    /// Returns the stamp to send a field with, or none if the field is to be left out.
    fn sent_as(&self, write: &FieldWrite<'_>, at: i64) -> Option<Stamp> {
        let rank = (write.stamp, at);
        let Some(own) = self.own.get(&*write.name) else { return Some(write.stamp) };
        if own.replaces(write, at) {
            return None;
        }
        match own.claimed {
            Some(claimed) if write.stamp < claimed && own.best < rank => {
                let loses = own.earlier.is_some_and(|best| best > rank);
                (!loses).then_some(claimed)
            }
            _ => Some(write.stamp),
        }
    }

    /// Fields that the device did not write are not needed.
    fn note(&mut self, field: &str, rank: Rank) {
        if let Some(own) = self.own.get_mut(field) {
            own.earlier = own.earlier.max(Some(rank));
        }
    }
}

#[cfg(test)]
mod tests;
