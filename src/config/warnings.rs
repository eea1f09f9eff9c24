//! Settings that work but are unsuitable for production.

use super::{Config, DEV_SERVICE_KEY, Secret};
use crate::protocol::push::MAX_BODY;
use url::{Host, Url};

/// Settings that should be changed in production. The messages repeat no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// MANA_SERVICE_KEY is the development key, which is public.
    #[error("MANA_SERVICE_KEY is the development key, which is public")]
    DevelopmentKey,
    /// MANA_SERVICE_KEY is the publicly known one from the examples.
    #[error("MANA_SERVICE_KEY is the key from the examples, which is public")]
    ExampleKey,
    /// ADMIN_TOKEN is the publicly known one from the examples.
    #[error("ADMIN_TOKEN is the one from the examples: anyone who reaches ADMIN_PORT can use it")]
    ExampleAdminToken,
    /// JWKS_URL is plain http to another host: anyone in between can let anybody in; use https.
    #[error("JWKS_URL is plain http to another host: anyone in between can let anybody in; use https")]
    PlainIssuer,
    /// MANA_CREDITS_URL is plain http to another host: MANA_SERVICE_KEY travels unencrypted.
    #[error("MANA_CREDITS_URL is plain http to another host: anyone in between can read MANA_SERVICE_KEY; use https")]
    PlainCredits,
    /// JWT_AUDIENCE is not set: tokens that were issued for other services are accepted too.
    #[error("JWT_AUDIENCE is not set: tokens that were issued for other services are accepted too")]
    NoAudience,
    /// ADMIN_HOST is reachable from other hosts over plain http: anyone in between can read ADMIN_TOKEN.
    #[error("ADMIN_HOST is reachable from other hosts over plain http: anyone in between can read ADMIN_TOKEN")]
    ExposedAdmin,
    /// PUBLIC_METRICS is off and there is no ADMIN_PORT.
    #[error("PUBLIC_METRICS is false and ADMIN_PORT is not set: nobody can read this replica's metrics")]
    NoMetrics,
    /// PROXY_PROTOCOL without TRUSTED_PROXIES.
    #[error("PROXY_PROTOCOL is true and TRUSTED_PROXIES is empty: the PROXY protocol is expected from no address")]
    NoProxies,
    /// MAX_USER_BYTES_PER_DAY is less than a body may have.
    #[error(
        "MAX_USER_BYTES_PER_DAY is less than a body may have, 10 MiB: larger pushes are only accepted from users who have used nothing of it"
    )]
    SmallDay,
    /// MAX_USER_BYTES_STORED is less than a body may have.
    #[error("MAX_USER_BYTES_STORED is less than a body may have, 10 MiB: larger pushes are never accepted")]
    SmallStorage,
}

/// The placeholders for secrets in the examples of deploy/ and k8s/.
const EXAMPLE_KEY: &str = "change-me";
const EXAMPLE_ADMIN_TOKEN: &str = "change-me-change-me";

impl Config {
    /// Returns the warnings to log at the start, each once.
    pub fn warnings(&self) -> Vec<Warning> {
        let (admin, limits) = (&self.admin, &self.limits);
        let is_open = admin.admin_port.is_some();
        let is_example = |token: &Secret| token.expose() == EXAMPLE_ADMIN_TOKEN;
        let found = [
            (self.billing.mana_service_key == DEV_SERVICE_KEY, Warning::DevelopmentKey),
            (self.billing.mana_service_key == EXAMPLE_KEY, Warning::ExampleKey),
            (is_plain(&self.auth.jwks_url), Warning::PlainIssuer),
            (is_plain(&self.billing.mana_credits_url), Warning::PlainCredits),
            (self.auth.jwt_audience.is_none(), Warning::NoAudience),
            (is_open && admin.admin_token.as_ref().is_some_and(is_example), Warning::ExampleAdminToken),
            (is_open && !admin.admin_host.is_loopback(), Warning::ExposedAdmin),
            (!is_open && !admin.public_metrics, Warning::NoMetrics),
            (limits.proxy_protocol && limits.trusted_proxies.iter().flatten().next().is_none(), Warning::NoProxies),
            (is_below_a_body(limits.max_user_bytes_per_day), Warning::SmallDay),
            (is_below_a_body(limits.max_user_bytes_stored), Warning::SmallStorage),
        ];
        found.into_iter().filter(|(applies, _)| *applies).map(|(_, warning)| warning).collect()
    }
}

/// Returns true for a limit in bytes that one push may exceed. 0 is no limit.
fn is_below_a_body(bytes: u64) -> bool {
    (1..MAX_BODY as u64).contains(&bytes)
}

/// Returns true if requests to this URL can be read in transit.
pub(crate) fn is_plain(url: &Url) -> bool {
    url.scheme() == "http" && !is_loopback(url)
}

/// True if this URL leads to this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
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
        assert_eq!(warnings(&["--mana-service-key=change-me", fine[1]]), [ExampleKey]);
        let example = ["--admin-port=0", "--admin-token=change-me-change-me"];
        assert_eq!(warnings(&[fine, example].concat()), [ExampleAdminToken]);
        assert_eq!(warnings(&[fine[0], fine[1], example[1]]), [], "the port is off");
        let no_metrics = "--public-metrics=false";
        assert_eq!(warnings(&[fine[0], fine[1], no_metrics]), [NoMetrics]);
        assert_eq!(warnings(&[&fine[..], &admin, &[no_metrics]].concat()), []);
        let (protocol, proxies) = ("--proxy-protocol=true", "--trusted-proxies=10.0.0.0/8");
        assert_eq!(warnings(&[fine[0], fine[1], protocol, "--trusted-proxies="]), [NoProxies]);
        assert_eq!(warnings(&[fine[0], fine[1], protocol, proxies]), []);
        for (setting, warning) in [("--max-user-bytes-per-day", SmallDay), ("--max-user-bytes-stored", SmallStorage)] {
            for (bytes, expected) in [(0, &[][..]), (1, &[warning]), ((10 << 20) - 1, &[warning]), (10 << 20, &[])] {
                assert_eq!(warnings(&[fine[0], fine[1], &format!("{setting}={bytes}")]), expected, "{setting} {bytes}");
            }
        }
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
