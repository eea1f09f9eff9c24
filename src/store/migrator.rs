//! Applies migrations over our own kind of connection, so that a URL means the same for them.
//!
//! sqlx reads the files at build time. Applied migrations are recorded in its table and under its lock, so they look
//! the same to its own tools and to older versions of this program, whose migrations sqlx ran.

use crate::db::Session;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use std::collections::HashMap;
use tokio::time::Instant;

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!();

/// This table belongs to sqlx.
const TABLE: &str = "
create table if not exists _sqlx_migrations (
    version bigint primary key,
    description text not null,
    installed_on timestamptz not null default now(),
    success boolean not null,
    checksum bytea not null,
    execution_time bigint not null
)";
/// As the migrations expect, whatever the database's defaults. PostgreSQL refuses to put a partitioned table into the
/// database's own tablespace if that is named, although it would be there anyway. The catalogs are sorted in memory, also
/// where no temporary file may be written.
const SETTINGS: &str = "
set standard_conforming_strings = on;
set work_mem = '64MB';
select set_config('default_tablespace', '', false) from pg_database d join pg_tablespace t on t.oid = d.dattablespace
where d.datname = current_database() and t.spcname = current_setting('default_tablespace')";
const NOTE: &str = "
insert into _sqlx_migrations (version, description, success, checksum, execution_time) values ($1, $2, true, $3, -1)";

/// The reason that migrations were not applied.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("the database refused a step")]
    Database(#[from] tokio_postgres::Error),
    #[error("the database refused migration {version}")]
    Refused {
        version: i64,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("migration {0} was started but not finished: check what it did, then remove its row from _sqlx_migrations")]
    Dirty(i64),
    #[error("migration {0} was applied in a different form than this program has")]
    Changed(i64),
    #[error("migration {0} cannot be applied in a transaction, as the main schema of a distributed database requires")]
    NoTransaction(i64),
}

/// Applies missing migrations, each in a transaction. Safe to run concurrently: one process at a time proceeds. Unknown
/// migrations are left alone.
///
/// # Errors
/// The database refused a migration; those before it stay applied.
pub(super) async fn run(session: &Session) -> Result<(), MigrateError> {
    // Boxed, because it is large and rare.
    locked(session, Box::pin(apply_missing(session, Transactions::Each))).await
}

/// The same in one transaction, with work to do before and after: all of it or nothing.
///
/// # Errors
/// The database refused a step, or a missing migration cannot be applied in a transaction.
pub(super) async fn run_between(
    session: &Session,
    before: impl Future<Output = Result<(), tokio_postgres::Error>>,
    after: impl Future<Output = Result<(), tokio_postgres::Error>>,
) -> Result<(), MigrateError> {
    locked(session, Box::pin(in_transaction(session, "commit", before, after))).await
}

/// The same, then undoes all of it; returns what the work after the migrations found.
///
/// # Errors
/// The same.
pub(super) async fn rehearse_between<T>(
    session: &Session,
    before: impl Future<Output = Result<(), tokio_postgres::Error>>,
    after: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, MigrateError> {
    locked(session, Box::pin(in_transaction(session, "rollback", before, after))).await
}

async fn in_transaction<T>(
    session: &Session,
    end: &str,
    before: impl Future<Output = Result<(), tokio_postgres::Error>>,
    after: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, MigrateError> {
    session.batch_execute("begin").await?;
    let done = async {
        before.await?;
        Box::pin(apply_missing(session, Transactions::Around)).await?;
        Ok::<T, MigrateError>(after.await?)
    };
    let done = done.await;
    let ended = session.batch_execute(if done.is_ok() { end } else { "rollback" }).await;
    let done = done?;
    ended?;
    Ok(done)
}

/// The transactions that migrations run in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transactions {
    /// One for each migration, unless it cannot have one.
    Each,
    /// One around all of them, managed by the caller.
    Around,
}

/// Runs work while no other session migrates.
async fn locked<T>(session: &Session, work: impl Future<Output = Result<T, MigrateError>>) -> Result<T, MigrateError> {
    let lock = lock_id(session).await?;
    session.execute("select pg_advisory_lock($1)", &[&lock]).await?;
    let done = work.await;
    // If the connection failed, the lock is gone with it.
    let unlocked = session.execute("select pg_advisory_unlock($1)", &[&lock]).await;
    let done = done?;
    unlocked?;
    Ok(done)
}

async fn apply_missing(session: &Session, transactions: Transactions) -> Result<(), MigrateError> {
    session.batch_execute(SETTINGS).await?;
    session.batch_execute(TABLE).await?;
    let rows = session.query("select version, success, checksum from _sqlx_migrations", &[]).await?;
    let mut applied: HashMap<i64, Vec<u8>> = HashMap::new();
    for row in rows {
        let (version, success): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
        if !success {
            return Err(MigrateError::Dirty(version));
        }
        applied.insert(version, row.try_get(2)?);
    }
    for migration in MIGRATIONS.iter().filter(|migration| migration.migration_type != MigrationType::ReversibleDown) {
        match applied.get(&migration.version) {
            Some(checksum) if *checksum == *migration.checksum => {}
            // A row inserted by a test or an operator has none.
            Some(_) => return Err(MigrateError::Changed(migration.version)),
            None => apply(session, migration, transactions).await?,
        }
    }
    Ok(())
}

async fn apply(session: &Session, migration: &Migration, transactions: Transactions) -> Result<(), MigrateError> {
    let version = migration.version;
    if migration.no_tx && transactions == Transactions::Around {
        return Err(MigrateError::NoTransaction(version));
    }
    let begins = !migration.no_tx && transactions == Transactions::Each;
    let refused = |source| MigrateError::Refused { version, source };
    let begun = Instant::now();
    if begins {
        session.batch_execute("begin").await?;
    }
    let applied = async {
        session.batch_execute(migration.sql.as_str()).await.map_err(refused)?;
        session.execute(NOTE, &[&version, &&*migration.description, &&*migration.checksum]).await?;
        Ok(())
    };
    let applied: Result<(), MigrateError> = applied.await;
    if begins {
        let end = if applied.is_ok() { "commit" } else { "rollback" };
        let ended = session.batch_execute(end).await;
        applied?;
        ended?;
    } else {
        applied?;
    }
    let took = begun.elapsed().as_nanos() as i64;
    session.execute("update _sqlx_migrations set execution_time = $1 where version = $2", &[&took, &version]).await?;
    Ok(())
}

/// Returns the id of the lock that sqlx takes in this database.
async fn lock_id(session: &Session) -> Result<i64, tokio_postgres::Error> {
    let name: String = session.query_one("select current_database()::text", &[]).await?.try_get(0)?;
    let mut crc = flate2::Crc::new();
    crc.update(name.as_bytes());
    Ok(0x3d32_ad9e * i64::from(crc.sum()))
}
