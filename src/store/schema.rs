//! Applying migrations, and refusing a schema that this version cannot work with.

use sqlx::migrate::{Migrate, MigrateError, Migrator};
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
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
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
pub async fn migrate(direct_url: &str) -> Result<(), SchemaError> {
    let mut connection = PgConnection::connect(direct_url).await?;
    MIGRATIONS.run(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// Checks that every migration that this version knows has been applied. A newer schema is fine: migrations
/// expand first and contract a version later, so that old replicas go on during a rollout.
pub async fn check(pool: &PgPool) -> Result<(), SchemaError> {
    let mut connection = pool.acquire().await?;
    let applied = connection.list_applied_migrations(&MIGRATIONS.table_name).await;
    let found = match applied {
        Ok(applied) => applied.iter().map(|migration| migration.version).max().unwrap_or(0),
        // No table of migrations: nothing was ever applied.
        Err(MigrateError::Execute(sqlx::Error::Database(error))) if error.code().as_deref() == Some("42P01") => 0,
        Err(error) => return Err(error.into()),
    };
    let needed = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    if found < needed { Err(SchemaError::TooOld { found, needed }) } else { Ok(()) }
}
