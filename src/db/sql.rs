//! Statements.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

/// A statement, and the types of what it is given. A `static`, because it is prepared once on each connection.
#[derive(Debug)]
pub struct Sql {
    /// The text, with `$1` and so on.
    pub text: &'static str,
    /// The types of its parameters, so that nobody has to ask for them.
    pub types: &'static [Type],
}

/// What takes a statement's rows, one by one as they arrive.
pub trait RowSink {
    /// Takes the next one.
    fn take(&mut self, row: Row);
}

impl RowSink for Vec<Row> {
    fn take(&mut self, row: Row) {
        self.push(row);
    }
}

/// What a statement is given.
pub type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];
