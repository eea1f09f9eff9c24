//! What a device is sent, so that existing clients converge (G3).
//!
//! Existing clients apply changes in the order received and take a value if its stamp's string is not below the
//! one they hold; some take whatever they receive. Sent unchanged, the log would lead them astray in three cases:
//!
//! 1. **The device's own later write wins.** A value that the device itself has replaced since, by a write that was
//!    stored later with a stamp that is not below, is left out: the device has the winning value, or gets it in its
//!    place. That holds for what others wrote, and on an initial sync for what the device itself wrote: an engine
//!    that takes whatever it receives would lose an edit that it made since.
//! 2. **The device holds a stamp that is too late.** It was ahead of the server by more than the allowed skew, its
//!    stamp was stored as an earlier one, and existing clients do not know `adjusted`: it would refuse values that
//!    win. The store keeps the stamp that the device holds, and a value that wins is sent to that device with this
//!    stamp. From there on the string no longer tells winners from losers, so a value that loses to an earlier one
//!    is left out.
//! 3. **A delete before anything else.** Existing clients ignore the delete of a record that they do not have. Where
//!    the first case may have left out all that was before the delete, it is sent as a write of `deletedAt`, which
//!    they do not ignore. On an initial sync that goes on after rows of the record were trimmed away, nobody can tell any
//!    more what was left out on the pages before; there it is sent so as well.
//!
//! All concern only records that the reading device itself wrote; everyone else is sent the log as it is.

use super::push::Op;
use super::push::wire::{Carrier, InsertMembers, Members, Text};
use super::stamp::Stamp;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use uuid::Uuid;

/// A change as it is stored.
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
    /// What it does.
    pub op: Op,
    /// JSON; see [`super::push::NewChange`].
    pub data: Option<String>,
    /// JSON; see [`super::push::NewChange`].
    pub stamps: String,
    /// JSON; see [`super::push::NewChange`].
    pub extra: Option<String>,
    /// Whether the reader stored it itself.
    pub is_own: bool,
    /// Of a delete: whether rows of its record were trimmed away after it was stored.
    pub rows_trimmed: bool,
}

/// A stored change which cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("the change stored at {at} µs cannot be read")]
pub struct UnreadableChange {
    pub(super) at: i64,
    #[source]
    pub(super) source: serde_json::Error,
}

/// One field that a change writes.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldWrite<'a> {
    /// The name of the field.
    pub name: Cow<'a, str>,
    /// JSON.
    pub value: Cow<'a, str>,
    /// Its stamp.
    pub stamp: Stamp,
}

/// The order of two writes of one field: the later stamp wins, and of equal stamps the one stored later.
pub type Rank = (Stamp, i64);

impl StoredChange {
    /// The stamp that fields get for which none is stored: the time of storing.
    fn stored_at(&self) -> Stamp {
        Stamp::from_millis(self.at.div_euclid(1000))
    }

    fn unreadable(&self) -> impl Fn(serde_json::Error) -> UnreadableChange + use<> {
        let at = self.at;
        move |source| UnreadableChange { at, source }
    }

    /// Whether every existing client finds the stamp of an insert's fields where we do.
    pub fn has_plain_stamp(&self) -> Result<bool, UnreadableChange> {
        let data = self.data.as_deref().unwrap_or("{}");
        let members: InsertMembers<'_> = serde_json::from_str(data).map_err(self.unreadable())?;
        Ok(members.carrier().is_some_and(|carrier| carrier.is_first))
    }

    /// How it goes out to whoever wrote nothing to its record.
    pub fn view_of_others(&self) -> Result<View<'_>, UnreadableChange> {
        // Existing clients would stamp such an insert with the time of receipt, or with something that is no stamp.
        if self.op == Op::Insert && !self.has_plain_stamp()? {
            return Ok(View::Fields(self.fields()?));
        }
        Ok(View::Whole)
    }

    /// The names of the fields that this change writes.
    pub fn field_names(&self) -> Result<Vec<Cow<'_, str>>, UnreadableChange> {
        if self.op == Op::Delete {
            return Ok(vec!["deletedAt".into()]);
        }
        let data = self.data.as_deref().unwrap_or("{}");
        let members: Members<'_, IgnoredAny> = serde_json::from_str(data).map_err(self.unreadable())?;
        Ok(members.0.into_iter().map(|(name, _)| name).collect())
    }

    /// The fields that this change writes.
    pub fn fields(&self) -> Result<Vec<FieldWrite<'_>>, UnreadableChange> {
        read_fields(self.op, self.data.as_deref(), &self.stamps, self.stored_at()).map_err(self.unreadable())
    }
}

/// The fields that a change writes. `stored_at` is the stamp of those for which none is stored.
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

/// The stamps of a change's fields. Mostly they come in the order of the fields, because `jsonb` orders both alike.
struct Stamps<'a> {
    in_order: Vec<(Cow<'a, str>, Text<'a>)>,
    /// Where each name is last, once one was not where it was looked for.
    places: Option<HashMap<String, usize>>,
}

impl<'a> Stamps<'a> {
    fn read(json: &'a str) -> Result<Stamps<'a>, serde_json::Error> {
        let Members(in_order) = serde_json::from_str(json)?;
        Ok(Stamps { in_order, places: None })
    }

    /// The stamp of the field of this name, which is the one at this place; none if it has none that can be read.
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

/// The fields of a stored change whose stamps were adjusted, and the stamp that they got; none if there are none.
///
/// `claimed` are the stamps as claimed, by field, and `stamps` those that are stored; of an insert (`is_insert`) the
/// members that may carry its stamp.
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

/// What one write costs in memory beside its names, with the row that told of it, about, in bytes.
pub const WRITE_SIZE: usize = 384;

/// What the reading device itself wrote to the records on a page, and what others wrote there before.
#[derive(Debug, Default)]
pub struct OwnWrites {
    records: HashMap<(String, String), RecordWrites>,
    initial_sync: bool,
    /// Whether the page goes on where another one ended, on an initial sync of a device that may have written.
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
    /// The stamp that the device holds, where it is later than the one stored.
    claimed: Option<Stamp>,
    /// The best that anybody wrote, over all that was stored before the change being looked at.
    earlier: Option<Rank>,
}

impl OwnWrites {
    /// Nothing yet, for a device that is on an initial sync or not.
    pub fn new(initial_sync: bool) -> OwnWrites {
        OwnWrites { records: HashMap::new(), initial_sync, goes_on: false }
    }

    /// The same for a page that goes on where another one ended, if `after_a_page`. That one may have left something out
    /// because of writes of the device that were trimmed away since.
    pub fn going_on(self, after_a_page: bool) -> OwnWrites {
        OwnWrites { goes_on: self.initial_sync && after_a_page, ..self }
    }

    /// Takes note that the reading device wrote a record, and of the last position at which it did. That must be told of
    /// every record on the page that it wrote, whichever fields.
    pub fn add_record(&mut self, record: (&str, &str), last: i64) {
        let record = self.records.entry((record.0.to_owned(), record.1.to_owned())).or_default();
        record.last = record.last.max(last);
    }

    /// Takes note of a field that the reading device wrote: the best that it stored, and the stamp that it holds where that
    /// is later. Of fields that no change on the page writes nothing need be told.
    pub fn add_own(&mut self, record: (&str, &str), field: &str, best: Rank, claimed: Option<Stamp>) {
        let record = self.records.entry((record.0.to_owned(), record.1.to_owned())).or_default();
        let claimed = claimed.filter(|claimed| *claimed > best.0);
        let known = record.own.entry(field.to_owned()).or_insert(OwnField { best, claimed, earlier: None });
        known.best = known.best.max(best);
        known.claimed = known.claimed.max(claimed);
    }

    /// Takes note of the best that anybody wrote to a field before the page, so that what loses to it is known. It must be told of
    /// fields of which the device holds a stamp that is too late, after these were.
    pub fn add_earlier(&mut self, record: (&str, &str), field: &str, best: Rank) {
        if let Some(record) = self.records.get_mut(&(record.0.to_owned(), record.1.to_owned())) {
            record.note(field, best);
        }
    }

    /// Whether the device wrote nothing to the records on the page, and nothing was left out on pages before.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && !self.goes_on
    }

    /// What is held of it in memory, and was while it was read, about, in bytes.
    pub fn size(&self) -> usize {
        let of_record = |((table, record), writes): (&(String, String), &RecordWrites)| {
            let fields: usize = writes.own.keys().map(|name| 2 * name.len() + WRITE_SIZE).sum();
            table.len() + record.len() + WRITE_SIZE + fields
        };
        self.records.iter().map(of_record).sum()
    }

    /// Whether the device itself has replaced all that these changes write, by what is known of its writes: then nothing of them
    /// is sent, whatever else it wrote.
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

    /// How `change`, the next one in the order of the log, goes out to the device.
    pub fn view<'a>(&mut self, change: &'a StoredChange) -> Result<View<'a>, UnreadableChange> {
        match self.view_of_own_records(change)? {
            View::Whole if self.may_lack_record(change) => Ok(View::Fields(change.fields()?)),
            View::Whole => change.view_of_others(),
            view => Ok(view),
        }
    }

    /// Whether that may differ from how the change goes out to others.
    pub fn concern(&self, change: &StoredChange) -> bool {
        self.may_lack_record(change)
            || !self.records.is_empty() && self.records.contains_key(&(change.table.clone(), change.record.clone()))
    }

    /// Whether this is a delete of whose record something may have been left out on a page before.
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
    /// Whether the device stored a later value than one that was stored there.
    fn replaces(&self, write: &FieldWrite<'_>, at: i64) -> bool {
        self.best.0 >= write.stamp && self.best.1 > at
    }
}

impl RecordWrites {
    /// The stamp to send a field with, or none if the field is to be left out.
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

    /// Of fields that the device did not write nobody asks.
    fn note(&mut self, field: &str, rank: Rank) {
        if let Some(own) = self.own.get_mut(field) {
            own.earlier = own.earlier.max(Some(rank));
        }
    }
}

#[cfg(test)]
mod tests;
