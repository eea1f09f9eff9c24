//! The URL parser.

use super::parameters::{self, TlsVersion};
use super::{Endpoint, Host, Keepalive, PostgresUrl, Roots, SslMode, TlsOptions, TlsVersions, UrlError};
use percent_encoding::percent_decode_str;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::config::ChannelBinding;

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
        // As in libpq, a parameter replaces what the other parts say, and itself.
        let mut parameters: Vec<(String, &str)> = Vec::new();
        for pair in parts.query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(UrlError::UnknownParameter)?;
            let (name, value) = parameters::of_now(decode(name)?, value);
            parameters.retain(|(known, _)| *known != name);
            parameters.push((name, value));
        }
        for (name, value) in parameters {
            read.parameter(&name, value)?;
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
pub(super) struct Reader {
    pub(super) user: Option<String>,
    pub(super) password: Option<Vec<u8>>,
    pub(super) database: Option<String>,
    pub(super) options: Option<String>,
    pub(super) hosts: Vec<String>,
    /// `None`: the host's name is resolved.
    pub(super) addresses: Vec<Option<IpAddr>>,
    pub(super) ports: Vec<u16>,
    pub(super) mode: Option<SslMode>,
    pub(super) roots: Option<Roots>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) hides_certificate: bool,
    pub(super) key: Option<PathBuf>,
    pub(super) direct: bool,
    pub(super) hides_name: bool,
    pub(super) versions: (Option<TlsVersion>, Option<TlsVersion>),
    pub(super) channel_binding: Option<ChannelBinding>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) keepalive: Keepalive,
    pub(super) needs_primary: bool,
    pub(super) balances: bool,
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
            let host = match name.starts_with(['/', '@']) && address.is_none() {
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
        let versions = TlsVersions::between(self.versions)?;
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
                sends_name: !self.hides_name,
                versions,
            },
            channel_binding: self.channel_binding.unwrap_or(ChannelBinding::Prefer),
            connect_timeout: self.connect_timeout,
            keepalive: self.keepalive,
            balances: self.balances,
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "libpq looks for its files in HOME")]
fn usual_folder() -> Option<PathBuf> {
    std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".postgresql"))
}

pub(super) fn port_of(port: &str) -> Result<u16, UrlError> {
    match port.trim() {
        "" => Ok(5432),
        port => port.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port),
    }
}

pub(super) fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

pub(super) fn decode(text: &str) -> Result<String, UrlError> {
    String::from_utf8(decode_bytes(text)?).map_err(|_| UrlError::Encoding)
}

pub(super) fn decode_bytes(text: &str) -> Result<Vec<u8>, UrlError> {
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    if bytes.contains(&0) { Err(UrlError::Encoding) } else { Ok(bytes) }
}
