//! Database URLs, parsed as libpq parses them; used for queries, for publishing and listening, and for migrations.
//!
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>. No error repeats any part of a
//! URL: a password with an unencoded special character may end up in any part.

mod parameters;
mod read;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::config::ChannelBinding;

/// A parsed database URL.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    /// The candidate servers; at least one.
    pub hosts: Vec<Endpoint>,
    /// The role. `None`: the operating system user.
    pub user: Option<String>,
    /// The password, as bytes.
    pub password: Option<Vec<u8>>,
    /// The database. `None`: named like the role.
    pub database: Option<String>,
    /// Session options, passed to the server verbatim.
    pub options: Option<String>,
    /// How connections are encrypted.
    pub tls: TlsOptions,
    /// Channel binding of the password to the TLS channel.
    pub channel_binding: ChannelBinding,
    /// Timeout for connecting to one address.
    pub connect_timeout: Option<Duration>,
    /// Keepalive settings.
    pub keepalive: Keepalive,
    /// True if only a writable server will do.
    pub needs_primary: bool,
    /// True if hosts and addresses are tried in a random order.
    pub balances: bool,
}

/// One candidate server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its host.
    pub host: Host,
    /// Its port.
    pub port: u16,
}

/// The way to reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// By name or address over TCP.
    Tcp {
        /// The name that a certificate is checked against.
        name: String,
        /// The address, if no lookup is needed.
        address: Option<IpAddr>,
    },
    /// Through the Unix socket in this directory, or an abstract one if it begins with `@`.
    Unix(PathBuf),
}

/// TLS settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The `sslmode`.
    pub mode: SslMode,
    /// The trusted root certificates.
    pub roots: Roots,
    /// Where libpq looks for files that the URL does not name: `.postgresql` in the home directory of the process's
    /// user.
    pub usual_folder: Option<PathBuf>,
    /// The client certificate file.
    pub certificate: Option<PathBuf>,
    /// The client key file.
    pub key: Option<PathBuf>,
    /// True if no client certificate is sent, even if there is one.
    pub hides_certificate: bool,
    /// True if TLS starts at once, without asking whether the server supports it.
    pub direct: bool,
    /// True if the server's name is sent before the connection is encrypted.
    pub sends_name: bool,
    /// The versions that may be used.
    pub versions: TlsVersions,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersions {
    /// 1.2 and 1.3.
    All,
    /// 1.2.
    Only12,
    /// 1.3.
    Only13,
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS if the server requires it.
    Allow,
    /// TLS if the server supports it.
    Prefer,
    /// TLS, without verifying the server.
    Require,
    /// TLS, with a certificate signed by a trusted authority.
    VerifyCa,
    /// The same, and the certificate must match the host name.
    VerifyFull,
}

/// The trusted root certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// The files in libpq's default location, if there are any.
    Usual,
    /// The operating system's.
    System,
    /// A file.
    File(PathBuf),
}

/// TCP keepalive settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// True if keepalives are disabled.
    pub off: bool,
    /// Idle time before the first probe.
    pub idle: Option<Duration>,
    /// Time between two probes.
    pub interval: Option<Duration>,
    /// Number of unanswered probes before the connection is dropped.
    pub count: Option<u32>,
    /// Maximum time that sent data may remain unacknowledged.
    pub user_timeout: Option<Duration>,
}

/// An error in a database URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Must look like postgres://user:password@host:port/database.
    #[error("must look like postgres://user:password@host:port/database")]
    Form,
    /// Names no host.
    #[error("names no host")]
    NoHost,
    /// Has a port that is not a number from 1 to 65535.
    #[error("has a port that is not a number from 1 to 65535")]
    Port,
    /// Must name one port for all hosts or one for each, and as many hostaddr as hosts.
    #[error("must name one port for all hosts or one for each, and as many hostaddr as hosts")]
    Counts,
    /// Has text that is not UTF-8 after decoding, or an encoded NUL.
    #[error("has text that is not UTF-8 after decoding, or an encoded NUL")]
    Encoding,
    /// Has an unknown parameter; write characters such as ? and & in a password as %3F and %26.
    #[error("has an unknown parameter; write characters such as ? and & in a password as %3F and %26")]
    UnknownParameter,
    /// A parameter that libpq supports and this parser does not.
    #[error("has the parameter {name}, which is not supported here")]
    Unsupported {
        /// The parameter's name.
        name: &'static str,
    },
    /// A parameter with an invalid value.
    #[error("has an invalid {name}: must be {must}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// What the value must be.
        must: &'static str,
    },
    /// Has a weak sslmode with sslrootcert=system, which requires verify-full.
    #[error("has a weak sslmode with sslrootcert=system, which requires verify-full")]
    WeakWithSystem,
    /// Asks for a read-only server in target_session_attrs; a replica has to write.
    #[error("asks for a read-only server in target_session_attrs; a replica has to write")]
    ReadOnlyTarget,
}

#[cfg(test)]
mod tests;
