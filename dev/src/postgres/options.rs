//! How a server is started, and how it is stopped.

use std::path::PathBuf;

use nix::sys::signal::Signal;

/// How a server is started.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Made if it is missing. It ends up elsewhere if PostgreSQL's user can't get there: see
    /// [`Postgres::data_dir`](super::Postgres::data_dir).
    pub data_dir: PathBuf,
    /// None: any free one.
    pub port: Option<u16>,
    /// Settings as in postgresql.conf; these win over our own.
    pub settings: Vec<(String, String)>,
    /// False for tests: what the operating system loses in a power failure doesn't matter. A killed
    /// server loses nothing either way.
    pub durable: bool,
}

/// How PostgreSQL stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Waits until its clients have left.
    Smart,
    /// Disconnects its clients.
    Fast,
    /// Leaves recovery to the next start as well.
    Immediate,
}

impl Shutdown {
    /// What the postmaster is sent.
    pub fn signal(self) -> Signal {
        match self {
            Self::Smart => Signal::SIGTERM,
            Self::Fast => Signal::SIGINT,
            Self::Immediate => Signal::SIGQUIT,
        }
    }
}
