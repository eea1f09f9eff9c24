//! A whole cluster on one machine, for trying things out and for tests: PostgreSQL, a token issuer,
//! a credits service and replicas, all of them real processes and real servers.
//!
//! ```text
//! local.rs ─► postgres.rs ─► binaries.rs ─► fetch.rs      found on the machine, or fetched
//!    │             └──────► place.rs, datadir.rs, launch.rs
//!    ├─────► issuer.rs (signing.rs), credits.rs ─► stub.rs
//!    └─────► cluster.rs ─► replica.rs ─► child.rs         no child outlives us
//! ```

pub mod args;
pub mod binaries;
pub mod child;
pub mod cluster;
pub mod credits;
mod datadir;
mod error;
mod fetch;
mod guide;
mod issue;
pub mod issuer;
mod launch;
mod listen;
mod local;
mod lock;
pub mod place;
pub mod postgres;
pub mod replica;
mod say;
mod signals;
pub mod signing;
pub mod stub;
mod supervise;
pub mod temporary;
mod token;
pub mod wait;
mod with_postgres;
mod with_services;

use std::{net::TcpListener, path::PathBuf, process::ExitCode};

pub use args::{DevArgs, TokenArgs};
pub use cluster::Services;
pub use credits::Credits;
pub use error::DevError;
pub use issuer::Issuer;
pub use postgres::{Postgres, PostgresOptions, Shutdown};
pub use replica::{Replica, ReplicaOptions};
pub use signing::SigningKey;
pub use stub::Mode;
pub use temporary::TemporaryPostgres;
pub use token::token;
pub use with_postgres::TEST_DATABASE_URL;

use args::DevCommand;

/// `mana-sync dev` and its subcommands. The answer is the process's exit status.
pub async fn run(args: DevArgs) -> Result<ExitCode, DevError> {
    match args.command {
        None => local::run(args.local).await,
        Some(DevCommand::Listen(args)) => listen::listen(args).await,
        Some(DevCommand::Issuer(args)) => issue::issuer(args).await,
        Some(DevCommand::WithPostgres(args)) => with_postgres::with_postgres(args).await,
        Some(DevCommand::WithServices(args)) => with_services::with_services(args).await,
    }
}

/// Where the local cluster keeps what it needs: the data, the key, a PostgreSQL that was fetched.
pub fn default_folder() -> PathBuf {
    PathBuf::from(".dev")
}

/// A port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> Result<u16, DevError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(DevError::io("find a free port"))
}
