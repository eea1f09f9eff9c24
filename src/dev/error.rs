//! What can go wrong on the way to a local cluster, said so that the reader knows what to do next.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// `action` says what was tried, for example "read the key .dev/issuer-key.json".
    #[error("could not {action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },

    #[error("the database refused: {action}")]
    Database {
        action: String,
        #[source]
        source: tokio_postgres::Error,
    },

    #[error(
        "PostgreSQL was not found and could not be fetched ({tried}). Install it \
         (Debian: apt-get install postgresql) or name the folder of its binaries in PG_BIN"
    )]
    NoPostgres { tried: String },

    #[error("`{program}` failed ({status}):\n{output}")]
    Tool { program: String, status: ExitStatus, output: String },

    #[error("{who} ended early ({status}). The end of its log:\n{log}")]
    EndedEarly { who: String, status: ExitStatus, log: String },

    #[error("{who} was not ready within {within:?}. The end of its log:\n{log}")]
    NotReady { who: String, within: Duration, log: String },

    #[error("{who} did not stop within {within:?}")]
    NotStopped { who: String, within: Duration },

    #[error("{who} died {times} times within {within:?}: giving up")]
    KeepsDying { who: String, times: usize, within: Duration },

    #[error(
        "{} is in use{}: stop that one first, or choose another folder with --data-dir",
        folder.display(),
        holder.map(|pid| format!(" by process {pid}")).unwrap_or_default()
    )]
    InUse { folder: PathBuf, holder: Option<u32> },

    #[error("{}: {problem}", path.display())]
    DataDirectory { path: PathBuf, problem: String },

    #[error("port {port} ({purpose}) is taken: stop what listens there or choose others with {flag}")]
    PortTaken { port: u16, purpose: String, flag: &'static str },

    #[error("the key file {}: {problem}", path.display())]
    Key { path: PathBuf, problem: String },

    #[error("{0}")]
    Usage(String),

    #[error("could not talk to {url}")]
    WebSocket {
        url: String,
        #[source]
        source: Box<tokio_tungstenite::tungstenite::Error>,
    },

    #[error("could not build the HTTP client")]
    HttpClient(#[source] reqwest::Error),

    #[error("stopped at once by a second signal")]
    Forced,
}

impl DevError {
    /// For `map_err`: keeps the cause and says what was tried.
    pub fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    pub fn database(action: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let action = action.into();
        move |source| Self::Database { action, source }
    }
}
