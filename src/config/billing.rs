//! Billing: the credits service.

use super::DEV_SERVICE_KEY;
use axum::http::HeaderValue;
use clap::Args;
use std::time::Duration;
use url::Url;

/// Billing: the credits service.
#[derive(Args, Clone, Debug)]
pub struct BillingConfig {
    /// URL of the credits service, which decides whose sync is paid for.
    #[arg(long, env, hide_env_values = true, default_value = "http://localhost:3061", value_parser = super::http_url)]
    pub mana_credits_url: Url,

    /// This server's key for the credits service.
    #[arg(long, env, hide_env_values = true, hide_default_value = true, default_value = DEV_SERVICE_KEY, value_parser = service_key)]
    pub mana_service_key: HeaderValue,

    /// How long an answer from the credits service is cached, in milliseconds.
    #[arg(long, env, default_value = "300000", value_parser = super::millis)]
    pub billing_cache_ms: Duration,

    /// How long a request waits for the credits service before it is let through, in milliseconds.
    #[arg(long, env, default_value = "500", value_parser = super::millis)]
    pub billing_timeout_ms: Duration,

    /// How long the credits service is not asked again after a failure, in milliseconds.
    #[arg(long, env, default_value = "15000", value_parser = super::millis)]
    pub billing_retry_ms: Duration,
}

fn service_key(text: &str) -> Result<HeaderValue, &'static str> {
    let mut key =
        HeaderValue::from_str(text).map_err(|_| "has a character that is invalid in a header, such as a newline")?;
    // Hidden in debug output, like a [`Secret`](super::Secret).
    key.set_sensitive(true);
    Ok(key)
}
