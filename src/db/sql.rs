//! Statements.

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

/// A statement with the types of its parameters. A `static`, because it is prepared once per connection.
#[derive(Debug)]
pub struct Sql {
    /// The text, with `$1` and so on.
    pub text: &'static str,
    /// The types of its parameters, which saves asking the server for them.
    pub types: &'static [Type],
}

/// Makes a session of its own independent of what its role, its database or its server has set as a default: no time
/// limit ends what it does, and no error ends the session. Everything that a person or a task then needs is set on top.
/// Each setting counts for the next statement, and none of them takes long or needs room.
const ORDERLY: &str = "set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0;
    set idle_session_timeout = 0; set exit_on_error = off; set row_security = on; set quote_all_identifiers = off;
    set default_transaction_isolation = 'read committed'; set standard_conforming_strings = on;
    select set_config('transaction_timeout', '0', false) where current_setting('transaction_timeout', true) is not null";

/// How often a session is made orderly at most: even the statement that turns a time limit off is subject to it, and on a
/// busy machine a default of a few milliseconds ends that.
const ATTEMPTS: usize = 100;

/// Makes a new session independent of all defaults, see [`ORDERLY`].
///
/// # Errors
/// The server refuses it, or canceled it every time.
pub async fn make_orderly(client: &Client) -> Result<(), tokio_postgres::Error> {
    for _ in 1..ATTEMPTS {
        match client.batch_execute(ORDERLY).await {
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {}
            made => return made,
        }
    }
    client.batch_execute(ORDERLY).await
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
