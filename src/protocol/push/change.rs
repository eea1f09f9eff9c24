//! Parses a single change: what it must have, and how it is stored.

use super::unnamed::UnnamedMembers;
use super::wire::{Carrier, Fields, InsertMembers, Members, RawChange, Text};
use super::{
    Adjusted, ChangeProblem, MAX_EXTRA, MAX_FIELD, MAX_FIELDS, MAX_RECORD, MAX_TABLE, MAX_WRITTEN, NewChange, Op,
    StampPolicy, check_name,
};
use crate::protocol::Cursor;
use crate::protocol::identity::IdentityBuilder;
use crate::protocol::json::{Growth, ObjectWriter, Unstorable};
use crate::protocol::stamp::{Stamp, StampError};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;

/// The name under which a body's version is stored with its changes.
const SCHEMA_VERSION: &str = "schemaVersion";
/// The field that a delete writes.
const DELETED_AT: &str = "deletedAt";

/// Parses the changes of a push, one after the other.
pub(super) struct ChangeReader<'b> {
    pub(super) policy: StampPolicy,
    pub(super) since: Cursor,
    /// The body's `schemaVersion`, for changes that have none of their own.
    pub(super) schema_version: Option<&'b RawValue>,
    /// The number of times each change without a stamp has occurred.
    pub(super) repeated: HashMap<[u8; 32], u64>,
}

/// A change being parsed.
#[derive(Default)]
struct Draft {
    stamps: ObjectWriter,
    claimed_stamps: ObjectWriter,
    /// The stamp that an insert's device holds for all of its members, if an earlier one is stored.
    claimed_for_all: Option<Stamp>,
    identity: IdentityBuilder,
    growth: Growth,
    /// The fields whose stamps were adjusted.
    adjusted: Vec<String>,
    /// The number of fields whose stamps are stored.
    stamped: usize,
}

impl Draft {
    /// Checks a value, and counts its size when written out.
    fn check(&mut self, json: &str, place: impl FnOnce() -> String) -> Result<(), ChangeProblem> {
        self.growth.check(json).map_err(|problem| ChangeProblem::Value { place: place(), problem })
    }

    /// Returns the stamp to store for a field, limited to the allowed skew.
    fn stored(&mut self, policy: StampPolicy, field: &str, claimed: Stamp) -> Stamp {
        let latest = policy.latest();
        if claimed > latest {
            self.adjusted.push(field.to_owned());
        }
        claimed.min(latest)
    }

    fn stamp(&mut self, field: &str, stored: Stamp, claimed: Stamp) {
        self.stamps.plain(field, stored);
        self.stamped += 1;
        self.claim(field, stored, claimed);
    }

    /// Keeps the device's claim if an earlier stamp is stored.
    fn claim(&mut self, field: &str, stored: Stamp, claimed: Stamp) {
        if stored != claimed {
            self.claimed_stamps.plain(field, claimed);
        }
    }
}

impl ChangeReader<'_> {
    /// Parses one change; `index` is used to report adjusted stamps.
    pub(super) fn read(
        &mut self,
        index: usize,
        change: RawChange<'_>,
    ) -> Result<(NewChange, Option<Adjusted>), ChangeProblem> {
        let text = |text: &Option<Text<'_>>| text.as_ref().map(|Text(text)| text.to_string()).unwrap_or_default();
        let (table, record) = (text(&change.table), text(&change.id));
        check_name(&table, MAX_TABLE).map_err(ChangeProblem::Table)?;
        check_name(&record, MAX_RECORD).map_err(ChangeProblem::Id)?;
        let Text(op) = change.op.as_ref().ok_or(ChangeProblem::NoOp)?;
        let op = Op::from_name(op).ok_or_else(|| ChangeProblem::Op(op.chars().take(40).collect()))?;
        let mut draft = Draft::default();
        draft.identity.texts(&[op.name(), &table, &record]);
        let data = match op {
            Op::Insert => Some(self.insert(change.data, &mut draft)?),
            Op::Update => Some(self.update(change.fields, &mut draft)?),
            Op::Delete => {
                self.delete(change.deleted_at, &mut draft)?;
                None
            }
        };
        if change.extra_bytes > MAX_EXTRA {
            return Err(ChangeProblem::Extra(change.extra_bytes));
        }
        let extra = self.extra(change.extra, &mut draft)?;
        let Draft { stamps, claimed_stamps, claimed_for_all, identity, growth, adjusted, stamped } = draft;
        let is_stamped = identity.is_stamped();
        let claimed_by_field = (!claimed_stamps.is_empty()).then(|| claimed_stamps.finish());
        let claimed_stamps = claimed_for_all.map(|claimed| format!("\"{claimed}\"")).or(claimed_by_field);
        let stamps = stamps.finish();
        let adjusted = (!adjusted.is_empty()).then(|| Adjusted {
            index,
            table: table.clone(),
            id: record.clone(),
            fields: adjusted,
            updated_at: self.policy.latest(),
        });
        let length = |json: &Option<String>| json.as_ref().map_or(0, String::len);
        // PostgreSQL writes two spaces around each stamp, and around each value.
        let size = length(&data) + stamps.len() + length(&extra) + growth.bytes() + 4 * stamped;
        if size > MAX_WRITTEN {
            return Err(ChangeProblem::Written(size));
        }
        let identity = identity.finish(self.since, &mut self.repeated);
        let change = NewChange { table, record, op, data, stamps, claimed_stamps, extra, size, identity, is_stamped };
        Ok((change, adjusted))
    }

    fn update(&self, fields: Option<&RawValue>, draft: &mut Draft) -> Result<String, ChangeProblem> {
        let fields = fields.ok_or(ChangeProblem::NoFields)?.get();
        let Fields { list: mut fields, count, longest_name } =
            serde_json::from_str(fields).map_err(ChangeProblem::Fields)?;
        check_fields(count, longest_name)?;
        // The order of fields does not matter; of equal names the last counts, as in JSON.parse and in jsonb.
        fields.reverse();
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        fields.dedup_by(|(earlier, _), (last, _)| earlier == last);
        draft.identity.texts(&[&fields.len().to_string()]);
        let mut data = ObjectWriter::new();
        for (name, field) in fields {
            let place = || format!("field {name:?}");
            if name.contains('\0') {
                return Err(ChangeProblem::Value { place: place(), problem: Unstorable::Nul });
            }
            let spelled = field.updated_at.or(field.at);
            let Text(spelled) = spelled.ok_or_else(|| ChangeProblem::NoStamp(name.clone().into_owned()))?;
            let claimed = Stamp::parse(&spelled)
                .map_err(|problem| ChangeProblem::Stamp { field: name.clone().into_owned(), problem })?;
            let value = field.value.map_or("null", RawValue::get);
            draft.check(value, place)?;
            draft.identity.texts(&[&name]);
            draft.identity.json(value);
            draft.identity.stamp(claimed);
            let stored = draft.stored(self.policy, &name, claimed);
            data.raw(&name, value);
            draft.stamp(&name, stored, claimed);
        }
        Ok(data.finish())
    }

    /// Reads an insert. Its fields carry the record's `updatedAt`, or else its `createdAt`. That member is written in
    /// canonical form, because clients take the stamp of what they receive from it. If neither is a stamp, the record
    /// is stored as it is and counts as written at the beginning of time.
    fn insert(&self, data: Option<&RawValue>, draft: &mut Draft) -> Result<String, ChangeProblem> {
        let data = data.map_or("{}", RawValue::get);
        draft.check(data, || "data".to_owned())?;
        draft.identity.json(data);
        let members: InsertMembers<'_> = serde_json::from_str(data).map_err(ChangeProblem::Data)?;
        check_fields(members.count, members.longest_name)?;
        let Some(Carrier { name, spelled, stamp: claimed, .. }) = members.carrier() else { return Ok(data.to_owned()) };
        draft.identity.stamp(claimed);
        let stored = draft.stored(self.policy, name, claimed);
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
        }
        draft.claimed_for_all = (stored != claimed).then_some(claimed);
        Ok(rewritten.finish())
    }

    fn delete(&self, deleted_at: Option<&RawValue>, draft: &mut Draft) -> Result<(), ChangeProblem> {
        let Some(raw) = deleted_at else {
            draft.stamp(DELETED_AT, self.policy.now, self.policy.now);
            return Ok(());
        };
        let Text(spelled): Text<'_> =
            serde_json::from_str(raw.get()).map_err(|_| ChangeProblem::DeletedAt(StampError::NotRfc3339))?;
        let claimed = Stamp::parse(&spelled).map_err(ChangeProblem::DeletedAt)?;
        draft.identity.stamp(claimed);
        let stored = draft.stored(self.policy, DELETED_AT, claimed);
        draft.stamp(DELETED_AT, stored, claimed);
        Ok(())
    }

    /// Returns the other members of the change as one object; none if there are none.
    fn extra(&self, members: UnnamedMembers<'_>, draft: &mut Draft) -> Result<Option<String>, ChangeProblem> {
        members.with_all(|members| self.extra_of(members, draft)).map_err(ChangeProblem::Unnamed)?
    }

    fn extra_of(
        &self,
        members: &[(Cow<'_, str>, &RawValue)],
        draft: &mut Draft,
    ) -> Result<Option<String>, ChangeProblem> {
        // Of equal names the last counts, as in JSON.parse and in jsonb.
        let mut members: Vec<(&str, &str)> = members.iter().rev().map(|(name, value)| (&**name, value.get())).collect();
        members.sort_by_key(|(name, _)| *name);
        members.dedup_by(|(later, _), (kept, _)| later == kept);
        for (name, value) in &members {
            draft.identity.texts(&[name]);
            draft.identity.json(value);
        }
        if let Some(version) = self.schema_version
            && !members.iter().any(|(name, _)| *name == SCHEMA_VERSION)
        {
            // It belongs to the body: with another version, the change is the same.
            members.push((SCHEMA_VERSION, version.get()));
        }
        if members.is_empty() {
            return Ok(None);
        }
        let mut extra = ObjectWriter::new();
        members.iter().for_each(|(name, value)| extra.raw(name, value));
        let extra = extra.finish();
        if extra.len() > MAX_EXTRA {
            return Err(ChangeProblem::Extra(extra.len()));
        }
        draft.check(&extra, || "one of its other members".to_owned())?;
        Ok(Some(extra))
    }
}

fn check_fields(count: usize, longest_name: usize) -> Result<(), ChangeProblem> {
    if count > MAX_FIELDS {
        return Err(ChangeProblem::TooManyFields(count));
    }
    if longest_name > MAX_FIELD {
        return Err(ChangeProblem::FieldName(longest_name));
    }
    Ok(())
}
