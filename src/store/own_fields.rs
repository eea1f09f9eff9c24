//! Fields of records, in the form of statement parameters.

use crate::protocol::json::ObjectWriter;
use crate::protocol::merge::{StoredChange, UnreadableChange};
use bytes::{BufMut, BytesMut};
use std::collections::HashMap;
use std::error::Error;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// Approximate size of a record's entry besides its names, in bytes.
const RECORD_SIZE: usize = 160;

/// The fields of records to ask for.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) records: Vec<(&'a str, &'a str)>,
    /// The field names of each record, as members of an object, in which PostgreSQL can find one among many quickly.
    names: Vec<Jsonb>,
    /// The index of each record.
    numbers: HashMap<(&'a str, &'a str), usize>,
}

impl<'a> Fields<'a> {
    /// Collects the fields that changes write. Records are in the order of their first changes.
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

    /// Returns the index of a change's record.
    pub(super) fn number(&self, change: &StoredChange) -> Option<usize> {
        self.numbers.get(&(change.table.as_str(), change.record.as_str())).copied()
    }

    /// Returns the approximate size, including that of a copy as statement parameters, in bytes.
    pub(super) fn size(&self) -> usize {
        let names: usize = self.names.iter().map(|Jsonb(names)| names.len()).sum();
        let records: usize = self.records.iter().map(|(table, id)| table.len() + id.len() + RECORD_SIZE).sum();
        2 * names + records
    }

    /// Returns the table and id of the record at an index.
    pub(super) fn record(&self, at: usize) -> Option<(&'a str, &'a str)> {
        self.records.get(at).copied()
    }

    /// Returns the tables, ids and field names of these records.
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
        // The version of the format: text.
        out.put_u8(1);
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::JSONB
    }

    to_sql_checked!();
}
