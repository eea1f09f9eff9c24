//! The body of a push: read, checked as a whole, and made ready to be stored.

use super::cursor::{Cursor, CursorError};
use super::json::{ObjectWriter, Unstorable, check_storable};
use super::retry::Fingerprint;
use super::stamp::{Stamp, StampError};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Longest name of a table, in bytes.
pub const MAX_TABLE: usize = 255;
/// Longest record id, in bytes. Table and record stand in an index, whose entries PostgreSQL limits to 2,704.
pub const MAX_RECORD: usize = 1024;
/// Longest client id, in bytes.
pub const MAX_CLIENT: usize = 255;
/// Longest app id, in bytes.
pub const MAX_APP: usize = 255;

/// What one change does to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes every field of `data`.
    Insert,
    /// Writes the fields named.
    Update,
    /// Writes the field `deletedAt`.
    Delete,
}

impl Op {
    /// The name on the wire and in the table.
    pub fn name(self) -> &'static str {
        match self {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
        }
    }

    /// The operation of that name.
    pub fn from_name(name: &str) -> Option<Op> {
        [Op::Insert, Op::Update, Op::Delete].into_iter().find(|op| op.name() == name)
    }
}

/// A change as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewChange {
    pub table: String,
    pub record: String,
    pub op: Op,
    /// An insert's record, or an update's values by field, as JSON.
    pub data: Option<String>,
    /// Stamps by field, as JSON. Empty for an insert: its stamp is in its data.
    pub stamps: String,
    /// The stamps that were adjusted, as the device holds them (see [`super::merge`]). As JSON.
    pub held: Option<String>,
}

/// A stamp that was too far ahead, and what it was stored as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Adjusted {
    /// Which of the push's changes.
    pub index: usize,
    pub table: String,
    pub id: String,
    /// The field, or for an insert or a delete the member that carries its stamp.
    pub field: String,
    /// The stamp as stored.
    #[serde(serialize_with = "as_text")]
    pub updated_at: Stamp,
}

fn as_text<S: serde::Serializer>(stamp: &Stamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(stamp)
}

/// A push that may be stored.
#[derive(Debug)]
pub struct Push {
    pub client: String,
    pub since: Cursor,
    pub changes: Vec<NewChange>,
    pub adjusted: Vec<Adjusted>,
    /// The same for every retry of this push, different for every other push of the device.
    pub fingerprint: Fingerprint,
}

/// What stamps are held against.
#[derive(Clone, Copy, Debug)]
pub struct StampPolicy {
    /// The server's time.
    pub now: Stamp,
    /// How far ahead of it a stamp may be, in milliseconds.
    pub max_ahead: i64,
}

impl StampPolicy {
    /// Takes every stamp as it is claimed. What comes without one gets the earliest there is.
    pub const AS_CLAIMED: StampPolicy = StampPolicy { now: Stamp::EARLIEST, max_ahead: i64::MAX };
}

/// Why a push was refused. Each message tells the client what to do.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("the body must be JSON such as {{\"clientId\":\"…\",\"since\":\"…\",\"changes\":[…]}}: {0}")]
    Body(#[source] serde_json::Error),
    #[error("say which device pushes: in the header X-Client-Id or as clientId")]
    NoClient,
    #[error("the client id {0}")]
    Client(NameProblem),
    #[error("since {0}")]
    Since(#[from] CursorError),
    #[error("this push has {got} changes; send at most {max} in one")]
    TooMany { got: usize, max: usize },
    #[error("changes[{index}]: {problem}")]
    Change { index: usize, problem: ChangeProblem },
}

/// What is wrong with one change.
#[derive(Debug, thiserror::Error)]
pub enum ChangeProblem {
    #[error("table {0}")]
    Table(NameProblem),
    #[error("id {0}")]
    Id(NameProblem),
    #[error("op must be insert, update or delete, and is {0:?}")]
    Op(String),
    #[error("op is missing; it must be insert, update or delete")]
    NoOp,
    #[error("an update needs fields: {{\"<field>\":{{\"value\":…,\"updatedAt\":\"…\"}}}}")]
    NoFields,
    #[error("fields must look like {{\"<field>\":{{\"value\":…,\"updatedAt\":\"…\"}}}}: {0}")]
    Fields(#[source] serde_json::Error),
    #[error("data must be an object: {0}")]
    Data(#[source] serde_json::Error),
    #[error("field {0:?} has no updatedAt")]
    NoStamp(String),
    #[error("updatedAt of field {field:?} {problem}")]
    Stamp { field: String, problem: StampError },
    #[error("deletedAt {0}")]
    DeletedAt(StampError),
    #[error("{place} {problem}")]
    Value { place: String, problem: Unstorable },
}

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    #[error("is missing or empty")]
    Empty,
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    #[error("has the character \\u0000, which cannot be stored")]
    Nul,
}

/// Checks a name that will be stored: not empty, at most `max` bytes, no NUL.
pub fn check_name(name: &str, max: usize) -> Result<&str, NameProblem> {
    match name {
        "" => Err(NameProblem::Empty),
        _ if name.len() > max => Err(NameProblem::TooLong(max)),
        _ if name.contains('\0') => Err(NameProblem::Nul),
        _ => Ok(name),
    }
}

/// Reads and checks the body of a push. `header_client`, where the request has one, wins over the body's.
pub fn read_push(
    body: &[u8],
    header_client: Option<&str>,
    policy: StampPolicy,
    max_changes: usize,
) -> Result<Push, PushError> {
    let Object(body): Object<Body<'_>> = serde_json::from_slice(body).map_err(PushError::Body)?;
    let client = header_client.or(body.client_id.as_deref()).unwrap_or("");
    let client = check_name(client, MAX_CLIENT).map_err(|problem| match problem {
        NameProblem::Empty => PushError::NoClient,
        other => PushError::Client(other),
    })?;
    let since = Cursor::parse_or_beginning(body.since.as_deref().unwrap_or(""))?;
    let changes = body.changes.unwrap_or_default().0;
    if changes.len() > max_changes {
        return Err(PushError::TooMany { got: changes.len(), max: max_changes });
    }
    let mut fingerprint = Fingerprint::start(client, since);
    let mut push = Push {
        client: client.to_owned(),
        since,
        changes: Vec::with_capacity(changes.len()),
        adjusted: Vec::new(),
        fingerprint: Fingerprint::default(),
    };
    for (index, change) in changes.into_iter().enumerate() {
        let mut reader = ChangeReader { index, policy, adjusted: &mut push.adjusted, fingerprint: &mut fingerprint };
        let change = reader.read(change).map_err(|problem| PushError::Change { index, problem })?;
        push.changes.push(change);
    }
    push.fingerprint = fingerprint;
    Ok(push)
}

/// Reads one change after the other.
struct ChangeReader<'p> {
    index: usize,
    policy: StampPolicy,
    adjusted: &'p mut Vec<Adjusted>,
    fingerprint: &'p mut Fingerprint,
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
    fn read(&mut self, change: RawChange<'_>) -> Result<NewChange, ChangeProblem> {
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
        let carrier: Carriers<'_> = serde_json::from_str(data).map_err(ChangeProblem::Data)?;
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

/// The members of an insert that may carry its stamp.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Carriers<'a> {
    #[serde(borrow)]
    updated_at: Option<&'a RawValue>,
    #[serde(borrow)]
    created_at: Option<&'a RawValue>,
}

impl Carriers<'_> {
    /// Name, spelling and instant of the member that carries the stamp.
    pub(super) fn stamp(&self) -> Option<(&'static str, Cow<'_, str>, Stamp)> {
        [("updatedAt", self.updated_at), ("createdAt", self.created_at)].into_iter().find_map(|(name, raw)| {
            let spelled: Cow<'_, str> = serde_json::from_str(raw?.get()).ok()?;
            let stamp = Stamp::parse(&spelled).ok()?;
            Some((name, spelled, stamp))
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    client_id: Option<Cow<'a, str>>,
    since: Option<Cow<'a, str>>,
    #[serde(borrow)]
    changes: Option<Changes<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawChange<'a> {
    table: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    op: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    fields: Option<&'a RawValue>,
    #[serde(borrow)]
    deleted_at: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawField<'a> {
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    updated_at: Option<Cow<'a, str>>,
    at: Option<Cow<'a, str>>,
}

/// The list of changes; an error in one names its index.
#[derive(Default)]
struct Changes<'a>(Vec<RawChange<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Changes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Vec<RawChange<'de>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of changes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut changes = Vec::new();
                while let Some(change) = seq.next_element_seed(Indexed(changes.len()))? {
                    changes.push(change);
                }
                Ok(changes)
            }
        }
        deserializer.deserialize_seq(List).map(Changes)
    }
}

/// Reads the change at an index, and says that index where it fails.
struct Indexed(usize);

impl<'de> DeserializeSeed<'de> for Indexed {
    type Value = RawChange<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Object::deserialize(deserializer)
            .map(|Object(change)| change)
            .map_err(|error| serde::de::Error::custom(format_args!("changes[{}]: {error}", self.0)))
    }
}

/// What must be written as an object: by itself a struct is also read from a list of its members.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Map(std::marker::PhantomData)).map(Object)
    }
}

/// The members of an object, in the order written.
pub(super) struct Members<'a, V>(pub(super) Vec<(Cow<'a, str>, V)>);

impl<'de: 'a, 'a, V: Deserialize<'de>> Deserialize<'de> for Members<'a, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<V>(std::marker::PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Map<V> {
            type Value = Vec<(Cow<'de, str>, V)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or(0));
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Map(std::marker::PhantomData)).map(Members)
    }
}

#[cfg(test)]
#[path = "push_tests.rs"]
mod tests;
