//! Which server a connection leads to. Names, addresses and lists of hosts may lead to another one at any time.

use std::sync::Arc;
use tokio_postgres::{Client, SimpleQueryMessage};

/// Identifies a server's database uniquely, until the server is restarted. What is stored is no proof: a copy has the
/// same.
pub const IDENTITY: &str = "select concat_ws(' ', oid, datname, extract(epoch from pg_postmaster_start_time()))
    from pg_database where datname = current_database()";

/// What the URL of one of several servers may lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Any server.
    Any,
    /// The server with this identity. Each new connection has to prove it.
    Only(Arc<str>),
    /// No server: it is not used.
    Nobody,
}

/// Returns the identity of the database that a connection leads to.
///
/// # Errors
/// The server does not answer.
pub async fn identity(client: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    let messages = client.simple_query(IDENTITY).await?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
