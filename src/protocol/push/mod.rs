//! The body of a push: read, checked as a whole, and made ready to be stored.
//!
//! * [`wire`]: the body as it is written; values are kept as the text that they are.
//! * [`change`]: one change after the other, checked and written as it is stored.

mod change;
pub(super) mod wire;

use super::cursor::{Cursor, CursorError};
use super::identity::{ChangeIdentity, DeviceScope};
use super::json::Unstorable;
use super::stamp::{Stamp, StampError};
use change::ChangeReader;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;
use wire::{BodyReader, Changes, Text};

/// Longest name of a table, in bytes.
pub const MAX_TABLE: usize = 255;
/// Longest record id, in bytes. Table and record stand in an index, whose entries PostgreSQL limits to 2,704.
pub const MAX_RECORD: usize = 1024;
/// Longest name of a field, in bytes.
pub const MAX_FIELD: usize = 1024;
/// Fields of one change, at most.
pub const MAX_FIELDS: usize = 4096;
/// Different tables of one push, at most.
pub const MAX_TABLES: usize = 5000;
/// Bytes of their names together, at most: they wait in the mailbox of each of the user's sessions.
pub const MAX_TABLE_NAMES: usize = 128 << 10;
/// What a change may have beside its named members, as a JSON object, in bytes.
pub const MAX_EXTRA: usize = 16 << 10;
/// What a change may take as PostgreSQL writes it out, in bytes: more than any body of the allowed size does, but for one
/// full of exponents. A reader has to hold it twice.
pub const MAX_WRITTEN: usize = 16 << 20;
/// Longest `schemaVersion` of a body, in bytes of JSON: it is stored with each of its changes.
const MAX_SCHEMA_VERSION: usize = 64;
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
    /// The table.
    pub table: String,
    /// The record.
    pub record: String,
    /// What it does.
    pub op: Op,
    /// An insert's record, or an update's values by field, as JSON.
    pub data: Option<String>,
    /// Stamps by field, as JSON. Empty for an insert: its stamp is in its data.
    pub stamps: String,
    /// The stamps that were adjusted, as the device holds them (see [`super::merge`]). As JSON.
    pub claimed_stamps: Option<String>,
    /// The members that the protocol does not name, as a JSON object.
    pub extra: Option<String>,
    /// Bytes of `data`, `stamps` and `extra` as PostgreSQL writes them out, at most.
    pub size: usize,
    /// What makes it the same change when it is sent again.
    pub identity: ChangeIdentity,
    /// Whether its client said when it was made.
    pub is_stamped: bool,
}

/// A change of which stamps were too far ahead, and what they were stored as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Adjusted {
    /// Which of the push's changes.
    pub index: usize,
    /// The table.
    pub table: String,
    /// The record.
    pub id: String,
    /// The fields, or for an insert or a delete the member that carries its stamp.
    pub fields: Vec<String>,
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
    /// The device that pushes.
    pub client: String,
    /// The cursor that it has.
    pub since: Cursor,
    /// What it has written, in its order.
    pub changes: Vec<NewChange>,
    /// Stamps that were ahead of the clock, and what became of them.
    pub adjusted: Vec<Adjusted>,
}

impl Push {
    /// The ids of the rows of its changes, in their order. Equal changes have equal ids.
    pub fn row_ids(&self, user: &str, app: &str) -> Vec<Uuid> {
        let scope = DeviceScope::new(user, app, &self.client);
        self.changes.iter().map(|change| scope.row_id(&change.identity)).collect()
    }
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
    /// The latest stamp that is stored.
    pub fn latest(self) -> Stamp {
        Stamp::from_millis(self.now.millis().saturating_add(self.max_ahead))
    }
}

/// Why a push was refused. Each message tells the client what to do.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The body is no push.
    #[error("the body must be JSON such as {{\"clientId\":\"…\",\"since\":\"…\",\"changes\":[…]}}: {0}")]
    Body(#[source] serde_json::Error),
    /// Say which device pushes: in the header X-Client-Id or as clientId.
    #[error("say which device pushes: in the header X-Client-Id or as clientId")]
    NoClient,
    /// The client id cannot be used.
    #[error("the client id {0}")]
    Client(NameProblem),
    /// The cursor cannot be read.
    #[error("since {0}")]
    Since(#[from] CursorError),
    /// There are more changes than one push may have.
    #[error("this push has {got} changes; send at most {max} in one")]
    TooMany {
        /// How many.
        got: usize,
        /// How many it may have.
        max: usize,
    },
    /// The schema version is neither a short text nor a number.
    #[error("schemaVersion must be a number or a string of at most {MAX_SCHEMA_VERSION} bytes")]
    SchemaVersion,
    /// It names more tables than one push may.
    #[error("this push names {got} tables; send changes of at most {MAX_TABLES} in one")]
    TooManyTables {
        /// How many.
        got: usize,
    },
    /// The names of its tables are too long together.
    #[error("the names of this push's tables have {got} bytes together; at most {MAX_TABLE_NAMES} in one push")]
    TableNames {
        /// Their bytes.
        got: usize,
    },
    /// A change cannot be stored.
    #[error("changes[{index}]: {problem}")]
    Change {
        /// Which, from 0.
        index: usize,
        /// What is wrong with it.
        problem: ChangeProblem,
    },
}

/// What is wrong with one change.
#[derive(Debug, thiserror::Error)]
pub enum ChangeProblem {
    /// The table's name cannot be used.
    #[error("table {0}")]
    Table(NameProblem),
    /// The record's id cannot be used.
    #[error("id {0}")]
    Id(NameProblem),
    /// The operation is not known.
    #[error("op must be insert, update or delete, and is {0:?}")]
    Op(String),
    /// Op is missing; it must be insert, update or delete.
    #[error("op is missing; it must be insert, update or delete")]
    NoOp,
    /// An update has no fields.
    #[error("an update needs fields: {{\"<field>\":{{\"value\":…,\"updatedAt\":\"…\"}}}}")]
    NoFields,
    /// The fields have another form.
    #[error("fields must look like {{\"<field>\":{{\"value\":…,\"updatedAt\":\"…\"}}}}: {0}")]
    Fields(#[source] serde_json::Error),
    /// The data has another form.
    #[error("data must be an object: {0}")]
    Data(#[source] serde_json::Error),
    /// A field has no stamp.
    #[error("field {0:?} has no updatedAt")]
    NoStamp(String),
    /// A field's stamp cannot be read.
    #[error("updatedAt of field {field:?} {problem}")]
    Stamp {
        /// The field.
        field: String,
        /// What is wrong with the stamp.
        problem: StampError,
    },
    /// The stamp of a delete cannot be read.
    #[error("deletedAt {0}")]
    DeletedAt(StampError),
    /// It writes more fields than one change may.
    #[error("it writes {0} fields; send at most {MAX_FIELDS} in one change")]
    TooManyFields(usize),
    /// A field's name is too long.
    #[error("a field's name has {0} bytes; at most {MAX_FIELD} can be stored")]
    FieldName(usize),
    /// What the protocol does not name takes more bytes than are kept.
    #[error(
        "its members beside table, id, op, data, fields and deletedAt take {0} bytes; at most {MAX_EXTRA} are kept"
    )]
    Extra(usize),
    /// Written out, it is larger than one change may be.
    #[error(
        "its numbers written out, it takes {0} bytes; at most {MAX_WRITTEN} are kept in one change: send fewer exponents"
    )]
    Written(usize),
    /// A value cannot be stored.
    #[error("{place} {problem}")]
    Value {
        /// Where it is.
        place: String,
        /// What is wrong with it.
        problem: Unstorable,
    },
}

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    /// There is none.
    #[error("is missing or empty")]
    Empty,
    /// It has more than this many bytes.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    /// PostgreSQL cannot store it.
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
    let body = BodyReader { max_changes }.read(body).map_err(PushError::Body)?;
    let text = |text: Option<Text<'_>>| text.map(|Text(text)| text.into_owned()).unwrap_or_default();
    let client = header_client.map_or_else(|| text(body.client_id), str::to_owned);
    check_name(&client, MAX_CLIENT).map_err(|problem| match problem {
        NameProblem::Empty => PushError::NoClient,
        other => PushError::Client(other),
    })?;
    let since = Cursor::parse_or_beginning(&text(body.since))?;
    let Changes { list: raw, count } = body.changes;
    if count > max_changes {
        return Err(PushError::TooMany { got: count, max: max_changes });
    }
    let schema_version = body.schema_version.map(check_schema_version).transpose()?;
    let mut reader = ChangeReader { policy, since, schema_version, repeated: HashMap::new() };
    let (mut changes, mut adjusted) = (Vec::with_capacity(raw.len()), Vec::new());
    for (index, change) in raw.into_iter().enumerate() {
        let (change, late) = reader.read(index, change).map_err(|problem| PushError::Change { index, problem })?;
        changes.push(change);
        adjusted.extend(late);
    }
    check_tables(&changes)?;
    Ok(Push { client, since, changes, adjusted })
}

fn check_tables(changes: &[NewChange]) -> Result<(), PushError> {
    let tables: HashSet<&str> = changes.iter().map(|change| change.table.as_str()).collect();
    let names = tables.iter().map(|table| table.len()).sum();
    match tables.len() {
        got if got > MAX_TABLES => Err(PushError::TooManyTables { got }),
        _ if names > MAX_TABLE_NAMES => Err(PushError::TableNames { got: names }),
        _ => Ok(()),
    }
}

fn check_schema_version(version: &RawValue) -> Result<&RawValue, PushError> {
    let is_scalar = !version.get().starts_with(['{', '[']);
    if is_scalar && version.get().len() <= MAX_SCHEMA_VERSION { Ok(version) } else { Err(PushError::SchemaVersion) }
}

#[cfg(test)]
mod tests;
