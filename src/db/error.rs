//! Errors of the database, and what they mean for a request.

use super::tls::TlsError;
use crate::config::UrlError;
use std::error::Error;
use std::io;
use tokio_postgres::error::Severity;
use tokio_postgres::types::{WasNull, WrongType};

/// The reason that there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be used.
    #[error("the database's URL {0}")]
    Url(#[from] UrlError),
    /// Cannot set up TLS to the database.
    #[error("cannot set up TLS to the database")]
    Tls(#[from] TlsError),
    /// The name of a database host cannot be resolved.
    #[error("the name of a database host cannot be resolved")]
    Resolve(#[source] io::Error),
    /// A database host cannot be reached.
    #[error("a database host cannot be reached")]
    Reach(#[source] io::Error),
    /// The database did not respond in time.
    #[error("the database did not answer in time")]
    Timeout,
    /// The database refused the connection.
    #[error("the database refused the connection")]
    Refused(#[source] tokio_postgres::Error),
    /// None of the database hosts is writable at the moment.
    #[error("none of the database hosts is writable at the moment")]
    NoPrimary,
    /// The URL leads to another server than the one that was admitted.
    #[error("the URL leads to another server than before, or to one that was restarted")]
    OtherServer,
    /// One of several database hosts refused the connection, and another is unavailable at the moment.
    #[error("one of the database hosts refused the connection, and another is unavailable at the moment")]
    OneRefused(#[source] tokio_postgres::Error),
}

impl ConnectError {
    /// Returns true if the error may pass: the database is unavailable, starting, full, or failing over.
    pub fn is_passing(&self) -> bool {
        match self {
            ConnectError::Url(_) | ConnectError::Tls(_) => false,
            ConnectError::Resolve(_)
            | ConnectError::Reach(_)
            | ConnectError::Timeout
            | ConnectError::NoPrimary
            | ConnectError::OtherServer
            | ConnectError::OneRefused(_) => true,
            ConnectError::Refused(error) => match sqlstate(error) {
                // Shutting down, starting, too many connections, a pooler without its server, a database being created
                // or dropped.
                Some(code) => matches!(code, "57P01" | "57P02" | "57P03" | "53300" | "55000") || code.starts_with("08"),
                None => !is_disagreement(error),
            },
        }
    }

    /// Returns true if the database does not know the role, or not with this password, or may not be entered by it.
    pub fn is_about_role(&self) -> bool {
        let ConnectError::Refused(error) = self else { return false };
        matches!(sqlstate(error), Some("28P01" | "28000" | "42501"))
    }

    /// Describes the error for an operator in one sentence, without any part of a setting.
    pub fn sentence(&self) -> String {
        let (ConnectError::Refused(error) | ConnectError::OneRefused(error)) = self else { return self.to_string() };
        match sqlstate(error) {
            Some("53300") => {
                "the database accepts no more connections: raise max_connections, or the limit of the role or the database, or lower DATABASE_POOL_SIZE"
                    .to_owned()
            }
            Some("57P03") => "the database is starting, or shutting down".to_owned(),
            Some("57P01" | "57P02") => "the database is shutting down".to_owned(),
            Some("42501") if is_about_files(error) => FILES.to_owned(),
            Some("42501") => "the role may not connect to the database: grant it CONNECT".to_owned(),
            Some(code @ ("28P01" | "28000")) => {
                format!("the database refused the URL's role, or its password (SQLSTATE {code})")
            }
            Some("08P01") if says(error, "unsupported startup parameter") => {
                "the pooler in front of the database refuses time limits: set DATABASE_PREPARE=false, or see docs/operations.md".to_owned()
            }
            Some(code) => format!("{self} (SQLSTATE {code})"),
            None => self.to_string(),
        }
    }

    /// Returns true if connecting another way, with TLS or without, may succeed. A server that is starting, full or
    /// shutting down rejects every connection alike.
    pub(super) fn may_be_about_tls(&self) -> bool {
        match self {
            ConnectError::Refused(error) => !(self.is_passing() && error.code().is_some()),
            ConnectError::Tls(_) => true,
            _ => false,
        }
    }

    /// Returns true if the server does not support TLS, as opposed to a failed negotiation.
    pub(super) fn is_lack_of_tls(&self) -> bool {
        // Failures of the handshake itself come from rustls, as I/O errors of the connection.
        let ConnectError::Refused(error) = self else { return false };
        error.to_string().starts_with("error performing TLS handshake")
            && error.source().is_some_and(|cause| !cause.is::<io::Error>())
    }
}

/// Returns true if the two ends disagree about TLS or authentication, as opposed to a broken connection.
fn is_disagreement(error: &tokio_postgres::Error) -> bool {
    match error.source() {
        None => false,
        Some(cause) => match cause.downcast_ref::<io::Error>() {
            Some(error) => error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
            None => true,
        },
    }
}

/// The reason that a statement got no answer.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// There is no connection to the database.
    #[error("there is no connection to the database")]
    Connect(#[from] ConnectError),
    /// No pool connection became free in time.
    #[error("no connection to the database became free in time")]
    PoolTimeout,
    /// The connections to the database are closed.
    #[error("the connections to the database are closed")]
    Closed,
    /// The database's answer is overdue.
    #[error("the database's answer is overdue")]
    Overdue,
    /// A database statement failed.
    #[error("a database statement failed")]
    Statement(#[from] tokio_postgres::Error),
}

impl DbError {
    /// Returns PostgreSQL's error code, if the error came from PostgreSQL.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            DbError::Statement(error) | DbError::Connect(ConnectError::Refused(error)) => sqlstate(error),
            _ => None,
        }
    }

    /// Describes the error for an operator in one sentence, without any part of a setting.
    pub fn sentence(&self) -> String {
        match (self, self.sqlstate()) {
            (DbError::Connect(error), _) => error.sentence(),
            (DbError::Statement(error), Some("08P01")) if says(error, "transaction blocks not allowed") => {
                "the pooler in front of the database shares its connections between statements: its pool_mode must be transaction or session"
                    .to_owned()
            }
            (_, Some(code @ ("25P04" | "53400"))) => advice_on(code).unwrap_or_default().to_owned(),
            (_, Some("42P01" | "3F000")) => "tables are missing: run `mana-sync migrate`".to_owned(),
            (DbError::Statement(error), Some("42501")) if is_about_files(error) => FILES.to_owned(),
            (_, Some("42501")) => "the role of DATABASE_URL lacks rights: deploy/grants.sql has them".to_owned(),
            _ if self.is_about_schema() => {
                let code = self.sqlstate().map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default();
                format!("the schema is not the one that this version knows{code}: was it changed while the replica runs?")
            }
            (_, Some(code)) => format!("{self} (SQLSTATE {code})"),
            (_, None) => self.to_string(),
        }
    }

    /// Returns the constraint that a statement violated.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            DbError::Statement(error) => error.as_db_error()?.constraint(),
            _ => None,
        }
    }

    /// Returns true if the connection failed, rather than the statement, or if the server ended the session for reasons
    /// of its own.
    pub fn is_disconnect(&self) -> bool {
        match self {
            DbError::Overdue => true,
            DbError::Statement(error) => is_disconnect(error),
            _ => false,
        }
    }

    /// Returns true if the server lost its connection to another server. The session itself survives. A retry may
    /// succeed at once, because the server may merely have used cached connections that had died.
    pub fn is_lost_behind(&self) -> bool {
        matches!(self, DbError::Statement(error) if is_lost_behind(error))
    }

    /// Returns true if a driver error means that a connection was lost, ours or one behind the server, or that the
    /// server is a standby.
    pub fn may_pass(error: &tokio_postgres::Error) -> bool {
        is_disconnect(error) || is_lost_behind(error) || sqlstate(error) == Some("25006")
    }

    /// Returns true if the server is a standby, or has become one.
    pub fn is_read_only(&self) -> bool {
        self.sqlstate() == Some("25006")
    }

    /// Returns true if the statement does not fit the schema, which must have changed since: a name is missing or means
    /// something else, a new column wants a value, or a result has another type.
    pub fn is_about_schema(&self) -> bool {
        let DbError::Statement(error) = self else { return false };
        match sqlstate(error) {
            // Our statements are tested against the schema. Class 0A: Citus, which does not run them through its views.
            Some(code) => code.starts_with("42") && code != "42501" || code.starts_with("0A") || code == "23502",
            None => error.source().is_some_and(|cause| cause.is::<WrongType>() || cause.is::<WasNull>()),
        }
    }

    /// Returns true if a statement must be prepared again: its tables have changed, or the server no longer knows it,
    /// because a pooler has switched servers.
    pub(super) fn is_stale_statement(error: &tokio_postgres::Error) -> bool {
        match error.as_db_error() {
            // The same code as for any unsupported feature.
            Some(error) if error.code().code() == "0A000" => error.routine() == Some("RevalidateCachedQuery"),
            Some(error) => error.code().code() == "26000",
            None => false,
        }
    }
}

/// Returns what an operator can do about an error of PostgreSQL's, if a setting of theirs is the cause.
pub fn advice(error: &tokio_postgres::Error) -> Option<&'static str> {
    advice_on(sqlstate(error)?)
}

fn advice_on(code: &str) -> Option<&'static str> {
    match code {
        "25P04" => Some(
            "transaction_timeout is too short, for the server, the database or the role: set it to 0 for the role of DATABASE_URL",
        ),
        "53400" => {
            Some("temp_file_limit is too low for a statement, for the server, the database or the role of DATABASE_URL")
        }
        _ => None,
    }
}

pub(super) fn is_disconnect(error: &tokio_postgres::Error) -> bool {
    let Some(db) = error.as_db_error() else {
        // A failure of the socket, or invalid data from it. A value that cannot be encoded or decoded is not a
        // disconnect.
        let text_fails = error.source().is_some_and(|cause| !cause.is::<io::Error>());
        return error.is_closed() || !text_fails;
    };
    // The severity tells if the session was ended: by administrators, time limits, crashes or poolers.
    matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
        || matches!(db.code().code(), "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04")
        // A pooler has given us a session on which another client has prepared statements with the same names.
        || db.code().code() == "42P05"
        // With severity ERROR, the server or a pooler is reporting one of its own connections.
        || db.code().code().starts_with("08") && db.parsed_severity() != Some(Severity::Error)
}

/// Returns true if the server lost another server, as Citus does when a worker goes down. The session survives.
fn is_lost_behind(error: &tokio_postgres::Error) -> bool {
    !is_disconnect(error) && sqlstate(error).is_some_and(|code| code.starts_with("08"))
}

/// True if this is what a pooler reports. It uses one code for many errors, but its messages are never translated.
fn says(error: &tokio_postgres::Error, text: &str) -> bool {
    error.as_db_error().is_some_and(|error| error.message().starts_with(text))
}

/// For operators: PostgreSQL has the same code for this as for rights that are missing.
const FILES: &str = "PostgreSQL itself may not use its files, or their disk is mounted read-only: see its log";

/// Returns true if the operating system refused PostgreSQL a file. Its messages may be translated; the names of its
/// source files are not.
fn is_about_files(error: &tokio_postgres::Error) -> bool {
    let source = error.as_db_error().and_then(|error| error.file());
    source.is_some_and(|file| matches!(file, "fd.c" | "md.c" | "relmapper.c" | "slru.c" | "xlog.c"))
}

fn sqlstate(error: &tokio_postgres::Error) -> Option<&str> {
    error.code().map(|code| code.code())
}
