//! A whole cluster on one machine, for trying things out and for tests: PostgreSQL, a token issuer, a credits service
//! and replicas, all of them real processes and real servers. None of it is in the production binary.
//!
//! ```text
//! postgres/   server.rs ─► binaries.rs ─► fetch.rs      found on the machine, or fetched
//!                │ └─────► place.rs, datadir.rs         the account that runs it, and where its files can be
//!                └───────► launch.rs ─► options.rs
//! issuer.rs (signing.rs), credits.rs ─► stub.rs         stand-ins for other services
//! citus.rs                                              three of them as a Citus cluster
//! cluster.rs ─► replica.rs ─► child.rs                  no child outlives us
//! ```
//!
//! The binary `mana-dev` puts them together: `src/commands/` has one file for each of its commands.

#![warn(missing_docs)]

pub mod child;
pub mod citus;
pub mod cluster;
pub mod credits;
pub mod error;
pub mod issuer;
pub mod lock;
pub mod npm;
pub mod place;
pub mod ports;
pub mod postgres;
pub mod replica;
pub mod say;
pub mod signing;
pub mod stub;
pub mod wait;

pub use citus::{TEST_CITUS_WORKERS, TemporaryCitus};
pub use cluster::{SERVICE_KEY, Services};
pub use credits::Credits;
pub use error::DevError;
pub use issuer::Issuer;
pub use place::default_folder;
pub use ports::free_port;
pub use postgres::{Binaries, Postgres, PostgresOptions, Shutdown, TemporaryPostgres};
pub use replica::{Replica, ReplicaOptions};
pub use signing::SigningKey;
pub use stub::Mode;

/// The environment variable with the URL of the server on which tests create their databases.
pub const TEST_DATABASE_URL: &str = "TEST_DATABASE_URL";
