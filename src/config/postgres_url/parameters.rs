//! The parameters of a URL. The table in docs/operations.md says what each of libpq's does here.

use super::read::{Reader, decode, decode_bytes, non_empty, port_of};
use super::{Roots, SslMode, TlsVersions, UrlError};
use std::time::Duration;
use tokio_postgres::config::ChannelBinding;

/// libpq parameters that would make no difference here.
const WITHOUT_EFFECT: [&str; 6] = [
    "application_name",
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "krbsrvname",
    "sslcompression",
];
/// libpq parameters that must not be ignored silently.
const UNSUPPORTED: [&str; 17] = [
    "gsslib",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslpassword",
];

/// The longest times, and the most tests, that Linux takes for keepalives.
const MAX_KEEPALIVE_SECONDS: i32 = 32_767;
const MAX_KEEPALIVE_COUNT: i32 = 127;

/// Returns a parameter, still encoded, by the name and with the value that it has now.
pub(super) fn of_now(name: String, value: &str) -> (String, &str) {
    match (name.as_str(), value) {
        // libpq accepts this from URLs written for JDBC.
        ("ssl", "true") => ("sslmode".to_owned(), "require"),
        ("requiressl", _) => ("sslmode".to_owned(), if value.starts_with('1') { "require" } else { "prefer" }),
        // Not libpq's, but tokio-postgres's.
        ("keepalives_retries", _) => ("keepalives_count".to_owned(), value),
        _ => (name, value),
    }
}

fn invalid<T>(name: &'static str, must: &'static str) -> Result<T, UrlError> {
    Err(UrlError::Parameter { name, must })
}

impl Reader {
    /// Reads a parameter, which is given only once. An empty value means the default where it does in libpq.
    pub(super) fn parameter(&mut self, name: &str, value: &str) -> Result<(), UrlError> {
        if name == "password" {
            self.password = Some(decode_bytes(value)?);
            return Ok(());
        }
        let value = decode(value)?;
        let list = || value.split(',').filter(|_| !value.is_empty());
        match name {
            "user" => self.user = non_empty(value),
            "dbname" => self.database = non_empty(value),
            "options" => self.options = non_empty(value),
            "host" => self.hosts = list().map(str::to_owned).collect(),
            "hostaddr" => {
                let read = |text: &str| if text.is_empty() { Ok(None) } else { text.parse().map(Some) };
                let Ok(addresses) = list().map(read).collect() else { return invalid("hostaddr", "IP addresses") };
                self.addresses = addresses;
            }
            "port" => self.ports = list().map(port_of).collect::<Result<_, _>>()?,
            "target_session_attrs" => match value.as_str() {
                "any" => {}
                "read-write" | "primary" | "prefer-standby" => self.needs_primary = true,
                "read-only" | "standby" => return Err(UrlError::ReadOnlyTarget),
                _ => return invalid("target_session_attrs", "any, read-write or primary"),
            },
            "load_balance_hosts" => match value.as_str() {
                "disable" => {}
                "random" => self.balances = true,
                _ => return invalid("load_balance_hosts", "disable or random"),
            },
            // What is spoken here is 3.0, which a maximum never excludes.
            "min_protocol_version" if matches!(&*value, "3.2" | "latest") => {
                return Err(UrlError::Unsupported { name: "min_protocol_version" });
            }
            "min_protocol_version" if !matches!(&*value, "" | "3.0") => return invalid("min_protocol_version", "3.0"),
            "max_protocol_version" if !matches!(&*value, "" | "3.0" | "3.2" | "latest") => {
                return invalid("max_protocol_version", "3.0, 3.2 or latest");
            }
            "min_protocol_version" | "max_protocol_version" => {}
            _ => return self.tls_parameter(name, value),
        }
        Ok(())
    }

    fn tls_parameter(&mut self, name: &str, value: String) -> Result<(), UrlError> {
        match (name, value.as_str()) {
            ("sslmode", mode) => match SslMode::from_name(mode) {
                Some(mode) => self.mode = Some(mode),
                None => return invalid("sslmode", "disable, allow, prefer, require, verify-ca or verify-full"),
            },
            ("sslrootcert", "") => {}
            ("sslrootcert", "system") => self.roots = Some(Roots::System),
            ("sslrootcert", _) => self.roots = Some(Roots::File(value.into())),
            ("sslcert", _) => self.certificate = non_empty(value).map(Into::into),
            ("sslkey", _) => self.key = non_empty(value).map(Into::into),
            ("sslcertmode", "allow") => {}
            ("sslcertmode", "disable") => self.hides_certificate = true,
            ("sslcertmode", "require") => return Err(UrlError::Unsupported { name: "sslcertmode=require" }),
            ("sslcertmode", _) => return invalid("sslcertmode", "allow or disable"),
            ("gssencmode", "disable" | "prefer") => {}
            ("gssencmode", "require") => return Err(UrlError::Unsupported { name: "gssencmode=require" }),
            ("gssencmode", _) => return invalid("gssencmode", "disable or prefer"),
            ("sslnegotiation", "postgres") => {}
            ("sslnegotiation", "direct") => self.direct = true,
            ("sslnegotiation", _) => return invalid("sslnegotiation", "postgres or direct"),
            ("sslsni", "1") => {}
            ("sslsni", "0") => self.hides_name = true,
            // libpq takes anything else as 0, also `true`.
            ("sslsni", _) => return invalid("sslsni", "0 or 1"),
            ("ssl_min_protocol_version", _) => self.versions.0 = tls_version("ssl_min_protocol_version", &value)?,
            ("ssl_max_protocol_version", _) => self.versions.1 = tls_version("ssl_max_protocol_version", &value)?,
            ("channel_binding", "disable") => self.channel_binding = Some(ChannelBinding::Disable),
            ("channel_binding", "prefer") => self.channel_binding = Some(ChannelBinding::Prefer),
            ("channel_binding", "require") => self.channel_binding = Some(ChannelBinding::Require),
            ("channel_binding", _) => return invalid("channel_binding", "disable, prefer or require"),
            _ => return self.time_parameter(name, &value),
        }
        Ok(())
    }

    fn time_parameter(&mut self, name: &str, value: &str) -> Result<(), UrlError> {
        const I32: &str = "a whole number of at most 2147483647";
        const SECONDS: &str = "a whole number of at most 32767";
        const COUNT: &str = "a whole number of at most 127";
        let number = |name, most: i32, must| {
            let number = value.trim().parse::<i32>().ok().filter(|number| *number <= most);
            number.ok_or(UrlError::Parameter { name, must })
        };
        // Zero and negative values mean the default.
        let positive = |name, most, must| Ok(number(name, most, must)?.try_into().ok().filter(|n: &u32| *n > 0));
        let seconds = |name| Ok(positive(name, MAX_KEEPALIVE_SECONDS, SECONDS)?.map(|n| Duration::from_secs(n.into())));
        let keepalive = &mut self.keepalive;
        match name {
            "connect_timeout" => {
                let limit = positive("connect_timeout", i32::MAX, I32)?;
                self.connect_timeout = limit.map(|seconds| Duration::from_secs(seconds.into()));
            }
            "tcp_user_timeout" => {
                let limit = positive("tcp_user_timeout", i32::MAX, I32)?;
                keepalive.user_timeout = limit.map(|millis| Duration::from_millis(millis.into()));
            }
            "keepalives" => keepalive.off = number("keepalives", i32::MAX, I32)? == 0,
            "keepalives_idle" => keepalive.idle = seconds("keepalives_idle")?,
            "keepalives_interval" => keepalive.interval = seconds("keepalives_interval")?,
            "keepalives_count" => keepalive.count = positive("keepalives_count", MAX_KEEPALIVE_COUNT, COUNT)?,
            _ if WITHOUT_EFFECT.contains(&name) => {}
            _ => match UNSUPPORTED.into_iter().find(|unsupported| *unsupported == name) {
                Some(_) if value.is_empty() => {}
                Some(name) => return Err(UrlError::Unsupported { name }),
                None => return Err(UrlError::UnknownParameter),
            },
        }
        Ok(())
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

/// A version of TLS, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TlsVersion {
    /// 1.0 or 1.1, which are never used.
    Old,
    V12,
    V13,
}

fn tls_version(name: &'static str, value: &str) -> Result<Option<TlsVersion>, UrlError> {
    Ok(Some(match value.to_ascii_lowercase().as_str() {
        "" => return Ok(None),
        "tlsv1" | "tlsv1.1" => TlsVersion::Old,
        "tlsv1.2" => TlsVersion::V12,
        "tlsv1.3" => TlsVersion::V13,
        _ => return invalid(name, "TLSv1.2 or TLSv1.3"),
    }))
}

impl TlsVersions {
    /// Returns the versions from one to another, if they are named.
    pub(super) fn between((least, most): (Option<TlsVersion>, Option<TlsVersion>)) -> Result<TlsVersions, UrlError> {
        match (least.unwrap_or(TlsVersion::V12), most.unwrap_or(TlsVersion::V13)) {
            (_, TlsVersion::Old) => invalid("ssl_max_protocol_version", "TLSv1.2 or TLSv1.3"),
            (TlsVersion::V13, TlsVersion::V12) => {
                invalid("ssl_max_protocol_version", "no lower than ssl_min_protocol_version")
            }
            (TlsVersion::V13, TlsVersion::V13) => Ok(TlsVersions::Only13),
            (_, TlsVersion::V12) => Ok(TlsVersions::Only12),
            (_, TlsVersion::V13) => Ok(TlsVersions::All),
        }
    }
}
