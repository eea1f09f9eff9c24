//! Taking over the previous server's database, in place.
//!
//! Its table is renamed, ours is created by the migrations, and the rows are copied from one to the other in parts,
//! each consisting of whole logs and copied in one transaction. Until all are copied, our table has another name too:
//! other clients find no `sync_changes`, and cannot mistake a half-filled table for the whole. Progress is kept in the
//! database (`sync_takeover`, [`plan`]), so the command can be killed at any point and run again. No replica starts
//! while `sync_takeover` exists. Nothing is deleted: the old table stays, as `sync_changes_before`, until [`drop_old`].
//!
//! [`found`] examines what is there, [`rows`] converts rows, [`copy`] copies them, [`indexes`] drops our table's
//! indexes while it is filled.

mod copy;
mod found;
mod indexes;
mod plan;
mod rows;
pub(super) mod state;

use super::schema::{self, SchemaError};
use crate::config::Secret;
use crate::db::Session;
use copy::Copied;
use found::Found;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// The application_name of the command's connections; those of a process killed a moment ago may still be there.
const NAME: &str = "mana-sync migrate";
/// The name of our table until it is filled.
const HIDDEN: &str = "sync_changes_incoming";
/// How often to check for clients that were stopped a moment ago, and how many times.
const STOPPED_PAUSE: Duration = Duration::from_millis(200);
const STOPPED_LOOKS: usize = 10;
/// The advisory lock that admits one takeover at a time; an arbitrary number that nothing else uses.
const LOCK: i64 = 0x6d61_6e61_7379_6e63;
/// Number of parts copied at a time: a copier, its reader and its writer wait for each other, so one leaves cores idle.
const COPIERS: usize = 3;
/// Session settings, with memory for building indexes.
const SETTINGS: &str = "set client_min_messages = warning; set maintenance_work_mem = '256MB'; set work_mem = '64MB';
                        set timezone = 'UTC'";
/// Waits for locks are bounded.
const LOCK_TIMEOUT: &str = "set lock_timeout = '30s'";

/// The reason that the database could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// The schema cannot be read or migrated.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A step failed; what was done so far is kept.
    #[error("the database refused a step; what was done so far is kept, run the command again")]
    Database(#[from] tokio_postgres::Error),
    /// The old table has an unknown form.
    #[error("sync_changes has an unknown form and was left unchanged: {0}")]
    UnknownForm(String),
    /// Another client that may write is connected.
    #[error(
        "other clients are connected to this database: {0}. Stop them first, to keep them from storing anything meanwhile; or pass --while-connected: their statements on sync_changes then fail until the takeover is complete"
    )]
    Connected(String),
    /// An old table from an earlier takeover exists.
    #[error("sync_changes_before already exists, from an earlier takeover: rename it, or drop it with --drop-old")]
    OldTableIsThere,
    /// Tables of ours exist next to the old one: somebody went back, but not all the way.
    #[error(
        "tables of an earlier takeover exist (sync_heads): remove them, as docs/coming-from-the-go-server.md describes for going back; nothing was changed"
    )]
    OursAreThere,
    /// The takeover is not finished: run `mana-sync migrate` first.
    #[error("the takeover is not finished: run `mana-sync migrate` first")]
    Unfinished,
    /// The number of rows copied does not match.
    #[error(
        "{found} of {expected} rows were copied, and {left_behind} left behind; nothing is lost, the old table is sync_changes_before"
    )]
    Miscounted {
        /// Rows of the old table.
        expected: i64,
        /// Rows that were copied.
        found: i64,
        /// Rows that could not be copied.
        left_behind: i64,
    },
}

/// The result of a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// Changes that were copied.
    pub rows: i64,
    /// Changes that no device could have read; they are only in the old table.
    pub left_behind: i64,
    /// Changes that are larger than a push may be.
    pub large: i64,
}

/// Takes over what the previous server has stored, if the database contains it, and reports the steps. Returns `None`
/// if there is nothing to take over. Fails while others are connected, unless `while_connected`.
pub async fn run(
    direct_url: &Secret,
    while_connected: bool,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<Option<TakenOver>, TakeoverError> {
    let connection = connect(direct_url).await?;
    connection.execute("select pg_advisory_lock($1)", &[&LOCK]).await?;
    let found = match (plan::began(&connection).await?, found::look(&connection).await?) {
        (Some(began), _) => {
            refuse_others(&connection, while_connected).await?;
            say("The takeover continues where it was stopped.".to_owned());
            began
        }
        (None, Some(found)) => begin(&connection, found, while_connected, say).await?,
        (None, None) => return Ok(None),
    };
    let started = Instant::now();
    schema::migrate_hidden(&connection, HIDDEN).await?;
    indexes::put_aside(&connection).await?;
    plan::make(&connection).await?;
    copy_parts(direct_url, &connection, &found, say).await?;
    indexes::build(direct_url, &connection, say).await?;
    let done = plan::finish(&connection).await?;
    let seconds = started.elapsed().as_secs_f64();
    say(format!("{} rows were taken over in {seconds:.1} s.", done.rows));
    if done.large > 0 {
        say(format!("{} of them are larger than 10 MiB, the limit of a push.", done.large));
    }
    if done.left_behind > 0 {
        say(format!("{} rows, which no device could read, are in sync_changes_before only.", done.left_behind));
    }
    say("The old table is sync_changes_before; `mana-sync migrate --drop-old` drops it.".to_owned());
    Ok(Some(done))
}

/// Drops the previous server's table. Returns false if there is none.
pub async fn drop_old(direct_url: &Secret) -> Result<bool, TakeoverError> {
    let connection = connect(direct_url).await?;
    if plan::began(&connection).await?.is_some() || found::look(&connection).await?.is_some() {
        return Err(TakeoverError::Unfinished);
    }
    let there = "select to_regclass('sync_changes_before') is not null";
    let there: bool = connection.query_one(there, &[]).await?.try_get(0)?;
    connection.batch_execute("drop table if exists sync_changes_before").await?;
    Ok(there)
}

async fn connect(direct_url: &Secret) -> Result<Session, TakeoverError> {
    let connection = schema::connect_as(direct_url, NAME).await?;
    connection.batch_execute(&format!("{SETTINGS}; {LOCK_TIMEOUT}")).await?;
    Ok(connection)
}

/// Reports what will be done, and renames the old table.
async fn begin(
    connection: &Session,
    mut found: Found,
    while_connected: bool,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<Found, TakeoverError> {
    if let Err(refused) = refuse_others(connection, while_connected).await {
        say(found.to_string());
        return Err(refused);
    }
    found.rows = found.count(connection).await?;
    say(found.to_string());
    say(format!("Exactly {} rows.", found.rows));
    plan::begin(connection, &found).await?;
    Ok(found)
}

/// Fails while others are connected, unless `while_connected`.
async fn refuse_others(connection: &Session, while_connected: bool) -> Result<(), TakeoverError> {
    if while_connected {
        return Ok(());
    }
    let mut others = Vec::new();
    for look in 0..STOPPED_LOOKS {
        if look > 0 {
            sleep(STOPPED_PAUSE).await;
        }
        others = found::others(connection, NAME).await?;
        if others.is_empty() {
            return Ok(());
        }
    }
    Err(TakeoverError::Connected(others.join(", ")))
}

/// Copies the remaining parts, several at a time, and reports the progress.
async fn copy_parts(
    direct_url: &Secret,
    connection: &Session,
    found: &Found,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<(), TakeoverError> {
    let columns: Arc<str> = found.select_list().into();
    let (mut done, parts) = plan::parts_left(connection).await?;
    let (started, mut copied_now) = (Instant::now(), 0);
    let parts = Arc::new(Mutex::new(parts.into_iter()));
    let (report, mut reports) = mpsc::channel(COPIERS);
    let mut copiers = JoinSet::new();
    for _ in 0..COPIERS {
        let (reader, writer) = (connect(direct_url).await?, connect(direct_url).await?);
        let (parts, columns, report) = (parts.clone(), columns.clone(), report.clone());
        copiers.spawn(async move {
            let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).next();
            while let Some(part) = next() {
                let copied = copy::copy_part(&reader, &writer, &columns, part).await;
                if report.send(copied).await.is_err() {
                    break;
                }
            }
        });
    }
    drop(report);
    // The first failure ends all copiers, and with them their transactions.
    while let Some(copied) = reports.recv().await {
        let Copied { rows, left_behind } = copied?;
        copied_now += rows + left_behind;
        done += rows + left_behind;
        let rate = copied_now as f64 / started.elapsed().as_secs_f64();
        let left = (found.rows - done).max(0) as f64 / rate.max(1.0);
        say(format!("{done} of {} rows copied, {rate:.0} per second, {left:.0} s left.", found.rows));
    }
    while let Some(copier) = copiers.join_next().await {
        copier.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
    }
    Ok(())
}

/// Runs a script composed from the database's own names.
async fn script(connection: &Session, statements: String) -> Result<(), tokio_postgres::Error> {
    connection.batch_execute(&statements).await
}
