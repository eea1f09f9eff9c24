//! A database URL, read as libpq reads one: the same for queries, for publishing and listening, and for migrations.
//!
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>. No error says any part of a URL:
//! a password with a character that should have been encoded may end up in every one of them.

mod read;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::config::ChannelBinding;

/// What a URL says.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    /// Where the database may be; at least one place.
    pub hosts: Vec<Endpoint>,
    /// The role; none: the one of the operating system.
    pub user: Option<String>,
    /// The password, as bytes.
    pub password: Option<Vec<u8>>,
    /// The database; none: named as the role.
    pub database: Option<String>,
    /// Options of the session, as they are given to the server.
    pub options: Option<String>,
    /// How connections are encrypted.
    pub tls: TlsOptions,
    /// Whether the password is bound to the TLS channel.
    pub channel_binding: ChannelBinding,
    /// How long connecting to one address may take.
    pub connect_timeout: Option<Duration>,
    /// When a silent connection is probed.
    pub keepalive: Keepalive,
    /// Whether only a server that can be written to is of use.
    pub needs_primary: bool,
}

/// One place where the database may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub host: Host,
    /// Its port.
    pub port: u16,
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// By name, or by address; the name is what a certificate is checked against.
    Tcp {
        /// The name that a certificate is checked against.
        name: String,
        /// Where it is, if no look-up is wanted.
        address: Option<IpAddr>,
    },
    /// Through the socket in this folder.
    Unix(PathBuf),
}

/// What of TLS is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// What is asked of TLS.
    pub mode: SslMode,
    /// Who vouches for the server.
    pub roots: Roots,
    /// Where libpq looks for files that the URL does not name: `.postgresql` in the home of whom this process runs as.
    pub usual_folder: Option<PathBuf>,
    /// The file of our certificate.
    pub certificate: Option<PathBuf>,
    /// The file of its key.
    pub key: Option<PathBuf>,
    /// Whether the server is shown no certificate, even if there is one.
    pub hides_certificate: bool,
    /// Whether the handshake comes first, without asking whether the server knows TLS.
    pub direct: bool,
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS if the server insists.
    Allow,
    /// TLS if the server can.
    Prefer,
    /// TLS, whoever the server is.
    Require,
    /// TLS, with a certificate that a known authority signed.
    VerifyCa,
    /// The same, for the very name of the host.
    VerifyFull,
}

/// Whose certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Those in libpq's usual place, if there are any.
    Usual,
    /// Those that the operating system trusts.
    System,
    /// Those in a file.
    File(PathBuf),
}

/// How a silent connection is tested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Whether nothing is probed.
    pub off: bool,
    /// How long a connection may be silent.
    pub idle: Option<Duration>,
    /// The time between two probes.
    pub interval: Option<Duration>,
    /// How many probes may go unanswered.
    pub count: Option<u32>,
    /// How long sent bytes may remain unacknowledged.
    pub user_timeout: Option<Duration>,
}

/// What is wrong with a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Must look like postgres://user:password@host:port/database.
    #[error("must look like postgres://user:password@host:port/database")]
    Form,
    /// Names no host.
    #[error("names no host")]
    NoHost,
    /// Has a port that is no number from 1 to 65535.
    #[error("has a port that is no number from 1 to 65535")]
    Port,
    /// Must name one port for all hosts or one for each, and as many hostaddr as hosts.
    #[error("must name one port for all hosts or one for each, and as many hostaddr as hosts")]
    Counts,
    /// Has text that is not UTF-8 once it is decoded, or an encoded NUL.
    #[error("has text that is not UTF-8 once it is decoded, or an encoded NUL")]
    Encoding,
    /// Has a parameter that is not known; characters such as ? and & in a password are written as %3F and %26.
    #[error("has a parameter that is not known; characters such as ? and & in a password are written as %3F and %26")]
    UnknownParameter,
    /// A parameter that libpq knows and this does not.
    #[error("has the parameter {name}, which is not supported here")]
    Unsupported {
        /// Which.
        name: &'static str,
    },
    /// A parameter with a value that it cannot have.
    #[error("has an invalid {name}: must be {must}")]
    Parameter {
        /// Which.
        name: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// Has a weak sslmode beside sslrootcert=system, with which only verify-full is of use.
    #[error("has a weak sslmode beside sslrootcert=system, with which only verify-full is of use")]
    WeakWithSystem,
    /// Asks for a server that is read-only in target_session_attrs; a replica has to write.
    #[error("asks for a server that is read-only in target_session_attrs; a replica has to write")]
    ReadOnlyTarget,
}

#[cfg(test)]
mod tests;
