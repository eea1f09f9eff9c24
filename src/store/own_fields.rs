//! Fields of records, as statements are asked for them.

use crate::protocol::json::ObjectWriter;
use crate::protocol::merge::{StoredChange, UnreadableChange};
use bytes::{BufMut, BytesMut};
use std::collections::HashMap;
use std::error::Error;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// What a record takes among those that are asked for, beside its names, about, in bytes.
const RECORD_SIZE: usize = 160;

/// Fields of records, to be asked for.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) records: Vec<(&'a str, &'a str)>,
    /// Of each record, as members of an object: so PostgreSQL finds one among many quickly.
    names: Vec<Jsonb>,
    /// Where each record is among them.
    numbers: HashMap<(&'a str, &'a str), usize>,
}

impl<'a> Fields<'a> {
    /// Those that changes write. Records are in the order of their first changes.
    pub(super) fn of_changes(changes: impl Iterator<Item = &'a StoredChange>) -> Result<Fields<'a>, UnreadableChange> {
        let (mut fields, mut objects) = (Fields::default(), Vec::new());
        for change in changes {
            let record = (change.table.as_str(), change.record.as_str());
            let number = *fields.numbers.entry(record).or_insert_with(|| {
                fields.records.push(record);
                objects.push(ObjectWriter::new());
                objects.len() - 1
            });
            change.field_names()?.iter().for_each(|name| objects[number].raw(name, "0"));
        }
        fields.names = objects.into_iter().map(|names| Jsonb(names.finish())).collect();
        Ok(fields)
    }

    /// Where the record of a change is among those that are asked for.
    pub(super) fn number(&self, change: &StoredChange) -> Option<usize> {
        self.numbers.get(&(change.table.as_str(), change.record.as_str())).copied()
    }

    /// What they take, and as a statement's parameters once more, about, in bytes.
    pub(super) fn size(&self) -> usize {
        let names: usize = self.names.iter().map(|Jsonb(names)| names.len()).sum();
        let records: usize = self.records.iter().map(|(table, id)| table.len() + id.len() + RECORD_SIZE).sum();
        2 * names + records
    }

    /// Table and id of the record at a place.
    pub(super) fn record(&self, at: usize) -> Option<(&'a str, &'a str)> {
        self.records.get(at).copied()
    }

    /// Tables, ids and field names of these records.
    pub(super) fn of(&self, records: &[usize]) -> (Vec<&'a str>, Vec<&'a str>, Vec<&Jsonb>) {
        let (tables, ids) = records.iter().filter_map(|at| self.record(*at)).unzip();
        (tables, ids, records.iter().filter_map(|at| self.names.get(*at)).collect())
    }
}

/// A JSON text, sent as `jsonb`.
#[derive(Debug)]
pub(super) struct Jsonb(String);

impl ToSql for Jsonb {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        // The version of its form: text.
        out.put_u8(1);
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::JSONB
    }

    to_sql_checked!();
}
