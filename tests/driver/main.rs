//! The meaning of database URLs: what libpq accepts works, what it rejects is refused, for queries, the publisher, the
//! listener and migrations alike. Against real servers.
//!
//! * [`modes`]: each `sslmode` with each kind of server. [`certificates`]: which certificates are accepted.
//! * [`hosts`]: several hosts, some of them unusable. [`encodings`]: different spellings of URLs.
//! * [`sessions`]: sessions that the server ends, and prepared statements that it forgets.
//! * [`whole`]: a replica with such URLs.

#[path = "../support/mod.rs"]
mod support;

mod authority;
mod certificates;
mod encodings;
mod hosts;
mod modes;
mod poolers;
mod server;
mod sessions;
mod slow;
mod whole;

use mana_sync::config::Secret;
use mana_sync::db::{ConnectError, Connector};

/// Connects like every part of a replica; returns true if the connection is encrypted.
async fn connect(url: &str) -> Result<bool, ConnectError> {
    let session = Connector::new(&Secret::from(url), "driver test")?.open().await?;
    let row = session.query_one("select ssl from pg_stat_ssl where pid = pg_backend_pid()", &[]).await;
    Ok(row.unwrap().get(0))
}

/// Formats an error with its causes.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
