//! Applying migrations, and refusing a schema that this version cannot work with.

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Why the schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the database cannot be asked for its schema")]
    Database(#[from] sqlx::Error),
    #[error("the migrations could not be applied")]
    Migrate(#[from] MigrateError),
    #[error("the schema is at version {found}, this replica needs {needed}: run `mana-sync migrate` first")]
    TooOld { found: i64, needed: i64 },
}

impl SchemaError {
    /// Whether it may be over in a while: the database is away, or still starting.
    pub fn is_passing(&self) -> bool {
        let database = match self {
            SchemaError::Database(error) | SchemaError::Migrate(MigrateError::Execute(error)) => error,
            SchemaError::Migrate(_) | SchemaError::TooOld { .. } => return false,
        };
        match database {
            // A connection that breaks while it is being made fails with an error of the protocol.
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut => true,
            // Starting up or shutting down; too many connections.
            sqlx::Error::Database(error) => {
                matches!(error.code().as_deref(), Some("57P01" | "57P02" | "57P03" | "53300"))
            }
            _ => false,
        }
    }
}

/// Applies what is missing. Several may run at once: an advisory lock lets one at a time pass. The URL must lead
/// to PostgreSQL itself, because a transaction pooler leaves such a lock behind.
pub async fn migrate(direct_url: &str) -> Result<Migrated, SchemaError> {
    let options: PgConnectOptions = direct_url.parse()?;
    // The server would notice that the table of migrations is there already, every time.
    let options = options.options([("client_min_messages", "warning")]);
    let mut connection = PgConnection::connect_with(&options).await?;
    let before = applied(&mut connection).await?.len();
    MIGRATIONS.run(&mut connection).await?;
    let after = applied(&mut connection).await?;
    connection.close().await?;
    Ok(Migrated { version: after.last().copied().unwrap_or(0), applied: after.len() - before })
}

/// What applying migrations came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The schema's version now.
    pub version: i64,
    /// How many migrations were missing.
    pub applied: usize,
}

/// The versions that have been applied, ascending.
async fn applied(connection: &mut PgConnection) -> Result<Vec<i64>, SchemaError> {
    match connection.list_applied_migrations(&MIGRATIONS.table_name).await {
        Ok(applied) => Ok(applied.iter().map(|migration| migration.version).collect()),
        // No table of migrations: nothing was ever applied.
        Err(MigrateError::Execute(sqlx::Error::Database(error))) if error.code().as_deref() == Some("42P01") => {
            Ok(Vec::new())
        }
        Err(error) => Err(error.into()),
    }
}

/// Checks that every migration that this version knows has been applied. A newer schema is fine: migrations
/// expand first and contract a version later, so that old replicas go on during a rollout.
pub async fn check(pool: &PgPool) -> Result<(), SchemaError> {
    let mut connection = pool.acquire().await?;
    let found = applied(&mut connection).await?.last().copied().unwrap_or(0);
    let needed = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    if found < needed { Err(SchemaError::TooOld { found, needed }) } else { Ok(()) }
}
