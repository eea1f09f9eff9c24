//! The errors of a local cluster, written so that the reader knows what to do next.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

/// The reasons why the local cluster, or a part of it, does not run.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The operating system refused something.
    #[error("could not {action}")]
    Io {
        /// The action, for example "read the key .dev/issuer-key.json".
        action: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },

    /// PostgreSQL refused something.
    #[error("the database refused: {action}")]
    Database {
        /// The action: a statement, or words.
        action: String,
        /// Why it failed.
        #[source]
        source: tokio_postgres::Error,
    },

    /// This machine has no PostgreSQL, and no registry provided one.
    #[error(
        "PostgreSQL was not found and could not be fetched ({tried}). Install it \
         (Debian: apt-get install postgresql) or name the folder of its binaries in PG_BIN"
    )]
    NoPostgres {
        /// Each source, with its problem.
        tried: String,
    },

    /// A program that we ran failed.
    #[error("`{program}` failed ({status}):\n{output}")]
    Tool {
        /// Its name, with the arguments that matter.
        program: String,
        /// Its exit status.
        status: ExitStatus,
        /// Its output.
        output: String,
    },

    /// A server ended that should have kept running.
    #[error("{who} ended early ({status}). The end of its log:\n{log}")]
    EndedEarly {
        /// The server.
        who: String,
        /// Its exit status.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },

    /// A server runs but does not answer.
    #[error("{who} was not ready within {within:?}. The end of its log:\n{log}")]
    NotReady {
        /// The server.
        who: String,
        /// The time it had.
        within: Duration,
        /// The last lines of its log.
        log: String,
    },

    /// Something was told to stop and still runs.
    #[error("{who} did not stop within {within:?}")]
    NotStopped {
        /// The program.
        who: String,
        /// The time it had.
        within: Duration,
    },

    /// A replica does not stay alive.
    #[error("{who} died {times} times within {within:?}: giving up")]
    KeepsDying {
        /// The replica.
        who: String,
        /// The number of restarts.
        times: usize,
        /// The time in which that happened.
        within: Duration,
    },

    /// Another process uses the folder.
    #[error(
        "{} is in use{}: stop that one first, or choose another folder with --data-dir",
        folder.display(),
        holder.map(|pid| format!(" by process {pid}")).unwrap_or_default()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The process, if known.
        holder: Option<u32>,
    },

    /// PostgreSQL cannot run with this data folder.
    #[error("{}: {problem}", path.display())]
    DataDirectory {
        /// The folder.
        path: PathBuf,
        /// The problem, and what to do.
        problem: String,
    },

    /// Something else listens on a port that we need.
    #[error("port {port} ({purpose}) is taken: stop what listens there or choose others with {flag}")]
    PortTaken {
        /// The port on 127.0.0.1.
        port: u16,
        /// The server that was to listen there.
        purpose: String,
        /// The option that chooses other ports.
        flag: &'static str,
    },

    /// The issuer's key cannot be read.
    #[error("the key file {}: {problem}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// The problem, and what to do.
        problem: String,
    },

    /// Something has to be called or set up differently.
    #[error("{0}")]
    Usage(String),

    /// A WebSocket could not be opened, or broke.
    #[error("could not talk to {url}")]
    WebSocket {
        /// Its address.
        url: String,
        /// Why it failed.
        #[source]
        source: Box<tokio_tungstenite::tungstenite::Error>,
    },

    /// The HTTP client could not be built.
    #[error("could not build the HTTP client")]
    HttpClient(#[source] reqwest::Error),

    /// Everything was killed, because a stop was requested twice.
    #[error("stopped at once by a second signal")]
    Forced,
}

impl DevError {
    /// For `map_err`: keeps the cause and adds the action.
    pub fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// The same for database errors.
    pub fn database(action: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let action = action.into();
        move |source| Self::Database { action, source }
    }
}
