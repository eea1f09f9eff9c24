//! Statements.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

/// A statement with the types of its parameters. A `static`, because it is prepared once per connection.
#[derive(Debug)]
pub struct Sql {
    /// The text, with `$1` and so on.
    pub text: &'static str,
    /// The types of its parameters, which saves asking the server for them.
    pub types: &'static [Type],
}

/// Receives a statement's rows one by one as they arrive.
pub trait RowSink {
    /// Receives the next row.
    fn take(&mut self, row: Row);
}

impl RowSink for Vec<Row> {
    fn take(&mut self, row: Row) {
        self.push(row);
    }
}

/// The parameters of a statement.
pub type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];
