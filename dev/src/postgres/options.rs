//! Options for starting and stopping a server.

use std::path::PathBuf;

use nix::sys::signal::Signal;

/// Options for starting a server.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Created if it is missing. It ends up elsewhere if PostgreSQL's user can't get there: see
    /// [`Postgres::data_dir`](super::Postgres::data_dir).
    pub data_dir: PathBuf,
    /// `None` means any free port.
    pub port: Option<u16>,
    /// Settings as in postgresql.conf; they override our own.
    pub settings: Vec<(String, String)>,
    /// Environment variables of the server.
    pub environment: Vec<(String, String)>,
    /// False for tests: data lost by the operating system in a power failure doesn't matter. A killed server loses
    /// nothing either way.
    pub durable: bool,
}

/// The ways of stopping PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Waits until its clients have left.
    Smart,
    /// Disconnects its clients.
    Fast,
    /// Also leaves recovery to the next start.
    Immediate,
}

impl Shutdown {
    /// Returns the signal for the postmaster.
    pub fn signal(self) -> Signal {
        match self {
            Self::Smart => Signal::SIGTERM,
            Self::Fast => Signal::SIGINT,
            Self::Immediate => Signal::SIGQUIT,
        }
    }
}
