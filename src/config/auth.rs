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
    #[arg(long, env)]
    pub jwt_issuer: Option<String>,

    /// The audience that tokens must name (aud). Default: not checked.
    #[arg(long, env)]
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
