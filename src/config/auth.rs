//! Who may call: the token issuer.

use clap::Args;
use std::time::Duration;
use url::Url;

/// Who may call: the token issuer.
#[derive(Args, Clone, Debug)]
pub struct AuthConfig {
    /// Where the token issuer publishes its keys.
    #[arg(long, env, hide_env_values = true, default_value = "http://localhost:3001/api/auth/jwks", value_parser = super::http_url)]
    pub jwks_url: Url,

    /// The issuer that tokens must name (iss). Default: not checked.
    #[arg(long, env, value_parser = trimmed)]
    pub jwt_issuer: Option<String>,

    /// The audience that tokens must name (aud). Default: not checked.
    #[arg(long, env, value_parser = trimmed)]
    pub jwt_audience: Option<String>,

    /// How long the issuer's keys are used before they are fetched again, in milliseconds.
    #[arg(long, env, default_value = "300000", value_parser = super::millis)]
    pub jwks_refresh_ms: Duration,

    /// The least time between two fetches of the issuer's keys, in milliseconds.
    #[arg(long, env, default_value = "5000", value_parser = super::millis)]
    pub jwks_cooldown_ms: Duration,

    /// How long keys are still used while the issuer cannot be reached, in milliseconds.
    #[arg(long, env, default_value = "86400000", value_parser = super::millis)]
    pub jwks_max_stale_ms: Duration,
}

/// A name that tokens have. Around it there may be white space, such as the end of the line of a secret's file: no token would match.
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
