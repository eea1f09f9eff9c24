//! Settings that work but are unsuitable for production.

use super::{Config, DEV_SERVICE_KEY};
use url::{Host, Url};

/// Settings that should be changed in production. The messages repeat no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// MANA_SERVICE_KEY is the one for development, which everybody knows.
    #[error("MANA_SERVICE_KEY is the one for development, which everybody knows")]
    DevelopmentKey,
    /// JWKS_URL is plain http to another host: whoever is in between can let anybody in; use https.
    #[error("JWKS_URL is plain http to another host: whoever is in between can let anybody in; use https")]
    PlainIssuer,
    /// MANA_CREDITS_URL is plain http to another host: MANA_SERVICE_KEY travels unencrypted.
    #[error(
        "MANA_CREDITS_URL is plain http to another host: whoever is in between can read MANA_SERVICE_KEY; use https"
    )]
    PlainCredits,
    /// JWT_AUDIENCE is not set: tokens that the issuer made for other services are accepted here too.
    #[error("JWT_AUDIENCE is not set: tokens that the issuer made for other services are accepted here too")]
    NoAudience,
    /// ADMIN_HOST is reached from other hosts over plain http: whoever is in between can read ADMIN_TOKEN.
    #[error("ADMIN_HOST is reached from other hosts over plain http: whoever is in between can read ADMIN_TOKEN")]
    ExposedAdmin,
}

impl Config {
    /// Returns the warnings to log at the start, each once.
    pub fn warnings(&self) -> Vec<Warning> {
        let found = [
            (self.billing.mana_service_key == DEV_SERVICE_KEY, Warning::DevelopmentKey),
            (is_plain(&self.auth.jwks_url), Warning::PlainIssuer),
            (is_plain(&self.billing.mana_credits_url), Warning::PlainCredits),
            (self.auth.jwt_audience.is_none(), Warning::NoAudience),
            (self.admin.admin_port.is_some() && !self.admin.admin_host.is_loopback(), Warning::ExposedAdmin),
        ];
        found.into_iter().filter(|(applies, _)| *applies).map(|(_, warning)| warning).collect()
    }
}

/// Returns true if requests to this URL can be read in transit.
fn is_plain(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    };
    url.scheme() == "http" && !is_loopback
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::without_environment;

    fn warnings(settings: &[&str]) -> Vec<Warning> {
        let database = ["--database-url=postgres://localhost/db"];
        without_environment::<Config>(&[&database, settings].concat()).unwrap().warnings()
    }

    #[test]
    fn what_is_for_development_is_warned_of() {
        use Warning::*;
        assert_eq!(warnings(&[]), [DevelopmentKey, NoAudience]);
        let fine = ["--mana-service-key=secret", "--jwt-audience=sync"];
        assert_eq!(warnings(&fine), []);
        let admin = ["--admin-port=0", "--admin-token=0123456789abcdef"];
        assert_eq!(warnings(&[fine, admin].concat()), []);
        assert_eq!(warnings(&[&fine[..], &admin, &["--admin-host=0.0.0.0"]].concat()), [ExposedAdmin]);
        assert_eq!(warnings(&[&fine[..], &["--admin-host=0.0.0.0"]].concat()), [], "the port is off");
        for (url, plain) in [
            ("http://127.0.0.1:1/", false),
            ("http://127.9.9.9:1/", false),
            ("http://[::1]:1/", false),
            ("http://[::ffff:127.0.0.1]/", false),
            ("http://localhost:1/", false),
            ("http://issuer.localhost./", false),
            ("https://issuer.example.com/", false),
            ("HTTPS://issuer.example.com/", false),
            ("http://issuer.example.com/", true),
            ("http://localhost.example.com/", true),
            ("http://127.0.0.1.example.com/", true),
            ("http://notlocalhost/", true),
            ("http://10.0.0.1/", true),
            ("http://0.0.0.0/", true),
            ("http://[::]/", true),
        ] {
            let [jwks, credits] = ["jwks-url", "mana-credits-url"].map(|name| format!("--{name}={url}"));
            let expected = if plain { vec![PlainIssuer, PlainCredits] } else { vec![] };
            assert_eq!(warnings(&[fine[0], fine[1], &jwks, &credits]), expected, "{url}");
        }
    }
}
