//! Parsers of values. No message repeats a value: it may be a secret in the wrong place.

use super::{PostgresUrl, Secret, UrlError};
use std::time::Duration;
use url::Url;

pub(super) fn millis(text: &str) -> Result<Duration, String> {
    match millis_or_zero(text)? {
        Duration::ZERO => Err("must be at least 1 millisecond".to_owned()),
        time => Ok(time),
    }
}

pub(super) fn millis_or_zero(text: &str) -> Result<Duration, String> {
    let millis: u32 = text.parse().map_err(|_| "must be a whole number of milliseconds".to_owned())?;
    Ok(Duration::from_millis(millis.into()))
}

// No message repeats the URL, which may contain a password.
pub(super) fn postgres_url(text: &str) -> Result<Secret, UrlError> {
    PostgresUrl::parse(text).map(|_| Secret::from(text))
}

/// Database URLs.
pub type PostgresUrls = Vec<Secret>;

pub(super) fn postgres_urls(text: &str) -> Result<PostgresUrls, UrlError> {
    text.split_whitespace().map(postgres_url).collect()
}

pub(crate) fn http_url(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        Ok(_) => Err("must start with http:// or https:// and name a host".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
