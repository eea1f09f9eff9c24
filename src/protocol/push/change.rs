//! Reading one change: what it must have, and how it is stored.

use super::wire::{Carriers, Members, Object, RawChange, RawField};
use super::{Adjusted, ChangeProblem, MAX_RECORD, MAX_TABLE, NewChange, Op, StampPolicy, check_name};
use crate::protocol::json::{ObjectWriter, Unstorable, check_storable};
use crate::protocol::retry::Fingerprint;
use crate::protocol::stamp::{Stamp, StampError};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Reads one change after the other.
pub(super) struct ChangeReader<'p> {
    pub(super) index: usize,
    pub(super) policy: StampPolicy,
    pub(super) adjusted: &'p mut Vec<Adjusted>,
    pub(super) fingerprint: &'p mut Fingerprint,
}

/// The stamps of one change as they are collected.
#[derive(Default)]
struct Stamps {
    stored: ObjectWriter,
    held: ObjectWriter,
}

impl Stamps {
    fn held(&mut self, field: &str, stored: Stamp, claimed: Stamp) {
        if stored != claimed {
            self.held.plain(field, claimed);
        }
    }

    fn finish(self) -> (String, Option<String>) {
        let held = (!self.held.is_empty()).then(|| self.held.finish());
        (self.stored.finish(), held)
    }
}

impl ChangeReader<'_> {
    pub(super) fn read(&mut self, change: RawChange<'_>) -> Result<NewChange, ChangeProblem> {
        let table = check_name(change.table.as_deref().unwrap_or(""), MAX_TABLE).map_err(ChangeProblem::Table)?;
        let record = check_name(change.id.as_deref().unwrap_or(""), MAX_RECORD).map_err(ChangeProblem::Id)?;
        let op = change.op.as_deref().ok_or(ChangeProblem::NoOp)?;
        let op = Op::from_name(op).ok_or_else(|| ChangeProblem::Op(op.chars().take(40).collect()))?;
        self.fingerprint.add(&[op.name(), table, record]);
        let mut stamps = Stamps::default();
        let data = match op {
            Op::Insert => Some(self.insert(table, record, change.data, &mut stamps)?),
            Op::Update => Some(self.update(table, record, change.fields, &mut stamps)?),
            Op::Delete => {
                self.delete(table, record, change.deleted_at, &mut stamps)?;
                None
            }
        };
        let (stamps, held) = stamps.finish();
        Ok(NewChange { table: table.to_owned(), record: record.to_owned(), op, data, stamps, held })
    }

    fn update(
        &mut self,
        table: &str,
        record: &str,
        fields: Option<&RawValue>,
        stamps: &mut Stamps,
    ) -> Result<String, ChangeProblem> {
        let fields = fields.ok_or(ChangeProblem::NoFields)?.get();
        let fields: Members<'_, Object<RawField<'_>>> = serde_json::from_str(fields).map_err(ChangeProblem::Fields)?;
        // How many there are keeps the texts of one change apart from those of the next.
        self.fingerprint.add(&[&fields.0.len().to_string()]);
        let mut data = ObjectWriter::new();
        for (name, Object(field)) in fields.0 {
            let place = || format!("field {name:?}");
            if name.contains('\0') {
                return Err(ChangeProblem::Value { place: place(), problem: Unstorable::Nul });
            }
            let spelled =
                field.updated_at.or(field.at).ok_or_else(|| ChangeProblem::NoStamp(name.clone().into_owned()))?;
            let stamp = Stamp::parse(&spelled)
                .map_err(|problem| ChangeProblem::Stamp { field: name.clone().into_owned(), problem })?;
            let value = field.value.map_or("null", RawValue::get);
            check_storable(value).map_err(|problem| ChangeProblem::Value { place: place(), problem })?;
            self.fingerprint.add(&[&name, value, &spelled]);
            let stored = self.within_skew(stamp, table, record, &name);
            data.raw(&name, value);
            stamps.stored.plain(&name, stored);
            stamps.held(&name, stored, stamp);
        }
        Ok(data.finish())
    }

    /// An insert's fields carry the record's `updatedAt`, else its `createdAt`. That member is written in the
    /// canonical spelling, because clients take the stamp of what they receive from it. Where neither is a stamp
    /// the record is stored as it is and counts as written at the time of storing.
    fn insert(
        &mut self,
        table: &str,
        record: &str,
        data: Option<&RawValue>,
        stamps: &mut Stamps,
    ) -> Result<String, ChangeProblem> {
        let data = data.map_or("{}", RawValue::get);
        check_storable(data).map_err(|problem| ChangeProblem::Value { place: "data".to_owned(), problem })?;
        self.fingerprint.add(&[data]);
        let Object(carrier): Object<Carriers<'_>> = serde_json::from_str(data).map_err(ChangeProblem::Data)?;
        let Some((name, spelled, stamp)) = carrier.stamp() else { return Ok(data.to_owned()) };
        let stored = self.within_skew(stamp, table, record, name);
        if spelled.as_bytes() == stored.encode() {
            return Ok(data.to_owned());
        }
        let members: Members<'_, &RawValue> = serde_json::from_str(data).map_err(ChangeProblem::Data)?;
        let mut rewritten = ObjectWriter::new();
        for (member, value) in &members.0 {
            if member == name {
                rewritten.plain(member, stored);
            } else {
                rewritten.raw(member, value.get());
            }
            stamps.held(member, stored, stamp);
        }
        Ok(rewritten.finish())
    }

    fn delete(
        &mut self,
        table: &str,
        record: &str,
        deleted_at: Option<&RawValue>,
        stamps: &mut Stamps,
    ) -> Result<(), ChangeProblem> {
        const FIELD: &str = "deletedAt";
        let Some(raw) = deleted_at else {
            stamps.stored.plain(FIELD, self.policy.now);
            return Ok(());
        };
        let spelled: Cow<'_, str> =
            serde_json::from_str(raw.get()).map_err(|_| ChangeProblem::DeletedAt(StampError::NotRfc3339))?;
        let stamp = Stamp::parse(&spelled).map_err(ChangeProblem::DeletedAt)?;
        self.fingerprint.add(&[&spelled]);
        let stored = self.within_skew(stamp, table, record, FIELD);
        stamps.stored.plain(FIELD, stored);
        stamps.held(FIELD, stored, stamp);
        Ok(())
    }

    /// Holds a stamp to the allowed skew, and notes it if it was beyond.
    fn within_skew(&mut self, stamp: Stamp, table: &str, record: &str, field: &str) -> Stamp {
        let latest = Stamp::from_millis(self.policy.now.millis().saturating_add(self.policy.max_ahead));
        if stamp <= latest {
            return stamp;
        }
        self.adjusted.push(Adjusted {
            index: self.index,
            table: table.to_owned(),
            id: record.to_owned(),
            field: field.to_owned(),
            updated_at: latest,
        });
        latest
    }
}
