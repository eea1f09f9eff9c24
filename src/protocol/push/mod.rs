//! The body of a push: parsed, checked as a whole, and made ready to be stored.
//!
//! * [`wire`]: the body as sent; values are kept as text.
//! * [`unnamed`]: members that the protocol does not name.
//! * [`change`]: the changes one by one, checked and converted to their stored form.

mod change;
mod unnamed;
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

/// Maximum size of a push's body in bytes.
pub const MAX_BODY: usize = 10 << 20;
/// Maximum length of a table name in bytes.
pub const MAX_TABLE: usize = 255;
/// Maximum length of a record id in bytes. Table and record are in an index, whose entries PostgreSQL limits to 2,704
/// bytes.
pub const MAX_RECORD: usize = 1024;
/// Maximum length of a field name in bytes.
pub const MAX_FIELD: usize = 1024;
/// Maximum number of fields in a change.
pub const MAX_FIELDS: usize = 4096;
/// Maximum number of different tables in a push.
pub const MAX_TABLES: usize = 5000;
/// Maximum size of their names together in bytes: they wait in the mailbox of each of the user's sessions.
pub const MAX_TABLE_NAMES: usize = 128 << 10;
/// Maximum size of a change's unnamed members as a JSON object, in bytes.
pub const MAX_EXTRA: usize = 16 << 10;
/// Maximum size of a change as PostgreSQL writes it out, in bytes: more than any body of the allowed size takes, unless
/// it is full of exponents. A reader has to hold it twice.
pub const MAX_WRITTEN: usize = 16 << 20;
/// Maximum length of a body's `schemaVersion` in bytes of JSON: it is stored with each of its changes.
const MAX_SCHEMA_VERSION: usize = 64;
/// Maximum length of a client id in bytes.
pub const MAX_CLIENT: usize = 255;
/// Maximum length of an app id in bytes.
pub const MAX_APP: usize = 255;

/// The operation of a change on a record.
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
    /// Returns the name on the wire and in the table.
    pub fn name(self) -> &'static str {
        match self {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
        }
    }

    /// Returns the operation with that name.
    pub fn from_name(name: &str) -> Option<Op> {
        [Op::Insert, Op::Update, Op::Delete].into_iter().find(|op| op.name() == name)
    }
}

/// A change ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewChange {
    /// The table.
    pub table: String,
    /// The record.
    pub record: String,
    /// The operation.
    pub op: Op,
    /// An insert's record, or an update's values by field, as JSON.
    pub data: Option<String>,
    /// Stamps by field, as JSON. Empty for an insert: its stamp is in its data.
    pub stamps: String,
    /// The stamps that were adjusted, as the device holds them (see [`super::merge`]), as JSON: by field, or as one text for
    /// all members of an insert, which the database writes out: an insert may have millions of them in a body.
    pub claimed_stamps: Option<String>,
    /// The members that the protocol does not name, as a JSON object.
    pub extra: Option<String>,
    /// Maximum size of `data`, `stamps` and `extra` as PostgreSQL writes them out, in bytes.
    pub size: usize,
    /// Identifies the change when it is sent again.
    pub identity: ChangeIdentity,
    /// True if its client said when it was made.
    pub is_stamped: bool,
}

/// A change with stamps that were too far ahead, and the stamp they were stored with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Adjusted {
    /// The index of the change in the push.
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

/// A valid push.
#[derive(Debug)]
pub struct Push {
    /// The device that pushes.
    pub client: String,
    /// The device's cursor.
    pub since: Cursor,
    /// The changes, in the device's order.
    pub changes: Vec<NewChange>,
    /// The changes whose stamps were adjusted.
    pub adjusted: Vec<Adjusted>,
}

impl Push {
    /// Returns the row ids of its changes, in order. Equal changes have equal ids.
    pub fn row_ids(&self, user: &str, app: &str) -> Vec<Uuid> {
        let scope = DeviceScope::new(user, app, &self.client);
        self.changes.iter().map(|change| scope.row_id(&change.identity)).collect()
    }
}

/// The limit for stamps.
#[derive(Clone, Copy, Debug)]
pub struct StampPolicy {
    /// The server's time.
    pub now: Stamp,
    /// Maximum distance of a stamp ahead of it, in milliseconds.
    pub max_ahead: i64,
}

impl StampPolicy {
    /// The latest stamp that is stored.
    pub fn latest(self) -> Stamp {
        Stamp::from_millis(self.now.millis().saturating_add(self.max_ahead))
    }
}

/// The reasons why a push is refused. Each message tells the client what to do.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The body is not a push.
    #[error("the body must be JSON such as {{\"clientId\":\"…\",\"since\":\"…\",\"changes\":[…]}}: {0}")]
    Body(#[source] serde_json::Error),
    /// Say which device pushes: in the header X-Client-Id or as clientId.
    #[error("name the device that pushes, in the header X-Client-Id or as clientId")]
    NoClient,
    /// The client id cannot be used.
    #[error("the client id {0}")]
    Client(NameProblem),
    /// The cursor cannot be read.
    #[error("since {0}")]
    Since(#[from] CursorError),
    /// There are more changes than one push may have.
    #[error("this push has {got} changes; send at most {max} in one push")]
    TooMany {
        /// The number of changes.
        got: usize,
        /// The maximum number.
        max: usize,
    },
    /// The schema version is neither a short text nor a number.
    #[error("schemaVersion must be a number or a string of at most {MAX_SCHEMA_VERSION} bytes")]
    SchemaVersion,
    /// It names more tables than one push may.
    #[error("this push names {got} tables; send changes to at most {MAX_TABLES} in one push")]
    TooManyTables {
        /// The number of tables.
        got: usize,
    },
    /// The names of its tables are too long together.
    #[error("the names of this push's tables have {got} bytes together; at most {MAX_TABLE_NAMES} in one push")]
    TableNames {
        /// Their size in bytes.
        got: usize,
    },
    /// A change cannot be stored.
    #[error("changes[{index}]: {problem}")]
    Change {
        /// Its index, from 0.
        index: usize,
        /// The problem.
        problem: ChangeProblem,
    },
}

/// The problem of one change.
#[derive(Debug, thiserror::Error)]
pub enum ChangeProblem {
    /// The table's name cannot be used.
    #[error("table {0}")]
    Table(NameProblem),
    /// The record's id cannot be used.
    #[error("id {0}")]
    Id(NameProblem),
    /// The operation is not known.
    #[error("op must be insert, update or delete, not {0:?}")]
    Op(String),
    /// Op is missing; it must be insert, update or delete.
    #[error("op is missing; it must be insert, update or delete")]
    NoOp,
    /// An update has no fields.
    #[error("an update needs fields: {{\"<field>\":{{\"value\":…,\"updatedAt\":\"…\"}}}}")]
    NoFields,
    /// The fields are malformed.
    #[error("fields must look like {{\"<field>\":{{\"value\":…,\"updatedAt\":\"…\"}}}}: {0}")]
    Fields(#[source] serde_json::Error),
    /// The data is malformed.
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
        /// The problem of the stamp.
        problem: StampError,
    },
    /// The stamp of a delete cannot be read.
    #[error("deletedAt {0}")]
    DeletedAt(StampError),
    /// It writes more fields than one change may.
    #[error("it writes {0} fields; send at most {MAX_FIELDS} in one change")]
    TooManyFields(usize),
    /// A field's name is too long.
    #[error("a field's name has {0} bytes; at most {MAX_FIELD} are allowed")]
    FieldName(usize),
    /// Members that the protocol does not name take more bytes than are kept.
    #[error(
        "its members other than table, id, op, data, fields and deletedAt take {0} bytes; at most {MAX_EXTRA} are kept"
    )]
    Extra(usize),
    /// The members that the protocol does not name cannot be read.
    #[error("its members beside table, id, op, data, fields and deletedAt cannot be read: {0}")]
    Unnamed(#[source] serde_json::Error),
    /// Written out, the change is larger than allowed.
    #[error(
        "with its numbers written out, it takes {0} bytes; at most {MAX_WRITTEN} are kept in one change: send fewer exponents"
    )]
    Written(usize),
    /// A value cannot be stored.
    #[error("{place} {problem}")]
    Value {
        /// The place of the value.
        place: String,
        /// The problem.
        problem: Unstorable,
    },
}

/// The problem of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    /// It is missing.
    #[error("is missing or empty")]
    Empty,
    /// It has more than this many bytes.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    /// PostgreSQL cannot store it.
    #[error("has the character \\u0000, which cannot be stored")]
    Nul,
}

/// Checks a name to be stored: not empty, at most `max` bytes, no NUL.
pub fn check_name(name: &str, max: usize) -> Result<&str, NameProblem> {
    match name {
        "" => Err(NameProblem::Empty),
        _ if name.len() > max => Err(NameProblem::TooLong(max)),
        _ if name.contains('\0') => Err(NameProblem::Nul),
        _ => Ok(name),
    }
}

/// Parses and checks the body of a push. `header_client`, if the request has one, takes precedence over the body's.
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
