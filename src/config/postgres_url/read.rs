//! The URL parser.

use super::{Endpoint, Host, Keepalive, PostgresUrl, Roots, SslMode, TlsOptions, UrlError};
use percent_encoding::percent_decode_str;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::config::ChannelBinding;

/// libpq parameters that would make no difference here.
const WITHOUT_EFFECT: [&str; 7] = [
    "application_name",
    "fallback_application_name",
    "client_encoding",
    "krbsrvname",
    "load_balance_hosts",
    "sslcompression",
    "sslsni",
];
/// libpq parameters that must not be ignored silently.
const UNSUPPORTED: [&str; 9] = [
    "gsslib",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "service",
    "sslcrl",
    "sslcrldir",
    "sslpassword",
];

impl PostgresUrl {
    /// Parses a URL. Surrounding whitespace is ignored.
    ///
    /// # Errors
    /// Fails on anything that cannot be parsed, or that matters but would have to be ignored.
    pub fn parse(text: &str) -> Result<PostgresUrl, UrlError> {
        let text = text.trim();
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let parts = Parts::split(rest.ok_or(UrlError::Form)?);
        let mut read = Reader::default();
        if let Some(credentials) = parts.credentials {
            let (user, password) = match credentials.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (credentials, None),
            };
            read.user = non_empty(decode(user)?);
            read.password = password.map(decode_bytes).transpose()?;
        }
        read.hosts(parts.hosts)?;
        read.database = non_empty(decode(parts.database)?);
        for pair in parts.query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(UrlError::UnknownParameter)?;
            read.parameter(&decode(name)?, value)?;
        }
        read.finish()
    }
}

/// A URL split into its parts, still encoded.
struct Parts<'a> {
    credentials: Option<&'a str>,
    hosts: &'a str,
    database: &'a str,
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn split(rest: &'a str) -> Parts<'a> {
        // A password may contain an unencoded `?` or a second `@`; libpq splits at the first, and a host contains no
        // `@`.
        let ends = |from: usize| rest[from..].find(['/', '?']).map_or(rest.len(), |at| from + at);
        let end = match (rest.find('@'), rest.find('/')) {
            (Some(at), slash) if slash.is_none_or(|slash| at < slash) => ends(at),
            _ => ends(0),
        };
        let (authority, rest) = rest.split_at(end);
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None => (None, authority),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        Parts { credentials, hosts, database: path.strip_prefix('/').unwrap_or(path), query }
    }
}

/// The parameters parsed so far.
#[derive(Default)]
struct Reader {
    user: Option<String>,
    password: Option<Vec<u8>>,
    database: Option<String>,
    options: Option<String>,
    hosts: Vec<String>,
    /// `None`: the host's name is resolved.
    addresses: Vec<Option<IpAddr>>,
    ports: Vec<u16>,
    mode: Option<SslMode>,
    roots: Option<Roots>,
    certificate: Option<PathBuf>,
    hides_certificate: bool,
    key: Option<PathBuf>,
    direct: bool,
    channel_binding: Option<ChannelBinding>,
    connect_timeout: Option<Duration>,
    keepalive: Keepalive,
    needs_primary: bool,
}

impl Reader {
    fn hosts(&mut self, hosts: &str) -> Result<(), UrlError> {
        if hosts.is_empty() {
            return Ok(());
        }
        for host in hosts.split(',') {
            let (host, port) = match host.strip_prefix('[') {
                Some(rest) => {
                    let (address, rest) = rest.split_once(']').ok_or(UrlError::Form)?;
                    (address, rest.strip_prefix(':').or(rest.is_empty().then_some("")).ok_or(UrlError::Form)?)
                }
                None => host.split_once(':').unwrap_or((host, "")),
            };
            self.hosts.push(decode(host)?);
            self.ports.push(port_of(&decode(port)?)?);
        }
        if self.hosts == [""] {
            // `postgres://:5433/db?host=…`
            self.hosts.clear();
        }
        Ok(())
    }

    fn parameter(&mut self, name: &str, value: &str) -> Result<(), UrlError> {
        if name == "password" {
            self.password = Some(decode_bytes(value)?);
            return Ok(());
        }
        let value = decode(value)?;
        if value.is_empty() {
            return Ok(());
        }
        match name {
            "user" => self.user = Some(value),
            "dbname" => self.database = Some(value),
            "options" => self.options = Some(value),
            "host" => self.hosts = value.split(',').map(str::to_owned).collect(),
            "hostaddr" => {
                let must = "IP addresses";
                let read = |text: &str| if text.is_empty() { Ok(None) } else { text.parse().map(Some) };
                let addresses = value.split(',').map(read).collect::<Result<_, _>>();
                self.addresses = addresses.map_err(|_| UrlError::Parameter { name: "hostaddr", must })?;
            }
            "port" => self.ports = value.split(',').map(port_of).collect::<Result<_, _>>()?,
            "target_session_attrs" => match value.as_str() {
                "any" => {}
                "read-write" | "primary" | "prefer-standby" => self.needs_primary = true,
                "read-only" | "standby" => return Err(UrlError::ReadOnlyTarget),
                _ => {
                    let must = "any, read-write or primary";
                    return Err(UrlError::Parameter { name: "target_session_attrs", must });
                }
            },
            _ => return self.tls_parameter(name, value),
        }
        Ok(())
    }

    fn tls_parameter(&mut self, name: &str, value: String) -> Result<(), UrlError> {
        let invalid = |name, must| Err(UrlError::Parameter { name, must });
        match (name, value.as_str()) {
            ("sslmode", mode) => match SslMode::from_name(mode) {
                Some(mode) => self.mode = Some(mode),
                None => return invalid("sslmode", "disable, allow, prefer, require, verify-ca or verify-full"),
            },
            // libpq accepts this from URLs written for JDBC.
            ("ssl", "true") => self.mode = Some(SslMode::Require),
            ("sslrootcert", "system") => self.roots = Some(Roots::System),
            ("sslrootcert", _) => self.roots = Some(Roots::File(value.into())),
            ("sslcert", _) => self.certificate = Some(value.into()),
            ("sslkey", _) => self.key = Some(value.into()),
            ("sslcertmode", "allow") => self.hides_certificate = false,
            ("sslcertmode", "disable") => self.hides_certificate = true,
            ("sslcertmode", "require") => return Err(UrlError::Unsupported { name: "sslcertmode=require" }),
            ("sslcertmode", _) => return invalid("sslcertmode", "allow or disable"),
            ("gssencmode", "disable" | "prefer") => {}
            ("gssencmode", "require") => return Err(UrlError::Unsupported { name: "gssencmode=require" }),
            ("gssencmode", _) => return invalid("gssencmode", "disable or prefer"),
            ("sslnegotiation", "postgres") => self.direct = false,
            ("sslnegotiation", "direct") => self.direct = true,
            ("sslnegotiation", _) => return invalid("sslnegotiation", "postgres or direct"),
            ("ssl_min_protocol_version", "TLSv1" | "TLSv1.1" | "TLSv1.2") | ("ssl_max_protocol_version", "TLSv1.3") => {
            }
            ("ssl_min_protocol_version" | "ssl_max_protocol_version", _) => {
                return Err(UrlError::Unsupported { name: "ssl_min_protocol_version or ssl_max_protocol_version" });
            }
            ("channel_binding", "disable") => self.channel_binding = Some(ChannelBinding::Disable),
            ("channel_binding", "prefer") => self.channel_binding = Some(ChannelBinding::Prefer),
            ("channel_binding", "require") => self.channel_binding = Some(ChannelBinding::Require),
            ("channel_binding", _) => return invalid("channel_binding", "disable, prefer or require"),
            _ => return self.time_parameter(name, &value),
        }
        Ok(())
    }

    fn time_parameter(&mut self, name: &str, value: &str) -> Result<(), UrlError> {
        let number = |name| value.parse::<i64>().map_err(|_| UrlError::Parameter { name, must: "a whole number" });
        // As in libpq, zero and negative values mean the default.
        let positive = |name| Ok(Some(number(name)?).filter(|n| *n > 0).map(i64::unsigned_abs));
        let keepalive = &mut self.keepalive;
        match name {
            "connect_timeout" => self.connect_timeout = positive("connect_timeout")?.map(Duration::from_secs),
            "tcp_user_timeout" => keepalive.user_timeout = positive("tcp_user_timeout")?.map(Duration::from_millis),
            "keepalives" => keepalive.off = number("keepalives")? == 0,
            "keepalives_idle" => keepalive.idle = positive("keepalives_idle")?.map(Duration::from_secs),
            "keepalives_interval" => keepalive.interval = positive("keepalives_interval")?.map(Duration::from_secs),
            "keepalives_count" | "keepalives_retries" => {
                keepalive.count = positive("keepalives_count")?.and_then(|count| u32::try_from(count).ok());
            }
            _ if WITHOUT_EFFECT.contains(&name) => {}
            _ => {
                let unsupported = UNSUPPORTED.into_iter().find(|unsupported| *unsupported == name);
                return Err(unsupported.map_or(UrlError::UnknownParameter, |name| UrlError::Unsupported { name }));
            }
        }
        Ok(())
    }

    fn endpoints(&self) -> Result<Vec<Endpoint>, UrlError> {
        let count = self.hosts.len().max(self.addresses.len());
        let fits = |len: usize| len <= 1 || len == count;
        if !fits(self.ports.len())
            || !(self.hosts.is_empty() || self.addresses.is_empty() || self.hosts.len() == self.addresses.len())
        {
            return Err(UrlError::Counts);
        }
        let port = |at: usize| self.ports.get(at).or(self.ports.first()).copied().unwrap_or(5432);
        let endpoint = |at: usize| {
            let address = self.addresses.get(at).copied().flatten();
            let name = self.hosts.get(at).cloned().or_else(|| address.map(|address| address.to_string()));
            let name = name.filter(|name| !name.is_empty()).ok_or(UrlError::NoHost)?;
            let host = match name.starts_with('/') && address.is_none() {
                true => Host::Unix(name.into()),
                false => Host::Tcp { address: address.or_else(|| name.parse().ok()), name },
            };
            Ok(Endpoint { host, port: port(at) })
        };
        (0..count).map(endpoint).collect()
    }

    fn finish(self) -> Result<PostgresUrl, UrlError> {
        let hosts = self.endpoints()?;
        if hosts.is_empty() {
            return Err(UrlError::NoHost);
        }
        let roots = self.roots.unwrap_or(Roots::Usual);
        let mode = match (&roots, self.mode) {
            (Roots::System, None) => SslMode::VerifyFull,
            (Roots::System, Some(mode)) if mode < SslMode::VerifyFull => return Err(UrlError::WeakWithSystem),
            (_, mode) => mode.unwrap_or(SslMode::Prefer),
        };
        if self.direct && mode < SslMode::Require {
            let must = "postgres unless sslmode is require, verify-ca or verify-full";
            return Err(UrlError::Parameter { name: "sslnegotiation", must });
        }
        Ok(PostgresUrl {
            // After a failover, another host is the primary.
            needs_primary: self.needs_primary || hosts.len() > 1,
            hosts,
            user: self.user,
            password: self.password.filter(|password| !password.is_empty()),
            database: self.database,
            options: self.options,
            tls: TlsOptions {
                mode,
                roots,
                usual_folder: usual_folder(),
                certificate: self.certificate,
                key: self.key,
                hides_certificate: self.hides_certificate,
                direct: self.direct,
            },
            channel_binding: self.channel_binding.unwrap_or(ChannelBinding::Prefer),
            connect_timeout: self.connect_timeout,
            keepalive: self.keepalive,
        })
    }
}

impl SslMode {
    pub(super) fn from_name(name: &str) -> Option<SslMode> {
        Some(match name {
            "disable" => SslMode::Disable,
            "allow" => SslMode::Allow,
            "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => return None,
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "libpq looks for its files in HOME")]
fn usual_folder() -> Option<PathBuf> {
    std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".postgresql"))
}

fn port_of(port: &str) -> Result<u16, UrlError> {
    match port {
        "" => Ok(5432),
        port => port.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port),
    }
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn decode(text: &str) -> Result<String, UrlError> {
    String::from_utf8(decode_bytes(text)?).map_err(|_| UrlError::Encoding)
}

fn decode_bytes(text: &str) -> Result<Vec<u8>, UrlError> {
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    if bytes.contains(&0) { Err(UrlError::Encoding) } else { Ok(bytes) }
}
