//! Authentication: the token issuer.

use clap::Args;
use std::time::Duration;
use url::Url;

/// Authentication: the token issuer.
#[derive(Args, Clone, Debug)]
pub struct AuthConfig {
    /// URL at which the token issuer publishes its keys.
    #[arg(long, env, hide_env_values = true, default_value = "http://localhost:3001/api/auth/jwks", value_parser = super::http_url)]
    pub jwks_url: Url,

    /// The issuer (iss) that tokens must name. Default: not checked.
    #[arg(long, env, value_parser = trimmed)]
    pub jwt_issuer: Option<String>,

    /// The audience (aud) that tokens must name. Default: not checked.
    #[arg(long, env, value_parser = trimmed)]
    pub jwt_audience: Option<String>,

    /// How long the issuer's keys are used before they are fetched again, in milliseconds.
    #[arg(long, env, default_value = "300000", value_parser = super::millis)]
    pub jwks_refresh_ms: Duration,

    /// Minimum time between two fetches of the issuer's keys, in milliseconds.
    #[arg(long, env, default_value = "5000", value_parser = super::millis)]
    pub jwks_cooldown_ms: Duration,

    /// How long keys remain in use while the issuer cannot be reached, in milliseconds.
    #[arg(long, env, default_value = "86400000", value_parser = super::millis)]
    pub jwks_max_stale_ms: Duration,
}

/// Trims a claim value: surrounding whitespace, such as the newline at the end of a secret file, would match no token.
fn trimmed(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err("is blank"),
        name => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, without_environment};

    #[test]
    fn names_of_issuer_and_audience_are_read_without_white_space_around_them() {
        let database = "--database-url=postgres://localhost/db";
        let names = ["--jwt-issuer= https://issuer.example\n", "--jwt-audience=todo app\t"];
        let config: Config = without_environment(&[database, names[0], names[1]]).unwrap();
        assert_eq!(config.auth.jwt_issuer.as_deref(), Some("https://issuer.example"));
        assert_eq!(config.auth.jwt_audience.as_deref(), Some("todo app"));
        assert_eq!(super::trimmed(" \n"), Err("is blank"));
    }
}
