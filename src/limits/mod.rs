//! Per-user limits (G6): limits that operators set, and fair shares that keep users out of each other's way.
//!
//! - [`users`]: pushes and pulls per second, bytes per day, bytes stored.
//! - [`addresses`]: connections from one address.
//! - [`apps`]: the number of a user's apps.
//! - [`polls`]: readers that poll without a pause.
//! - [`heavy`]: work that would occupy a thread for long.
//! - [`reads`]: the share of the database that one user's reads may use.
//! - [`turns`]: work that anybody may request, one piece at a time.
//!
//! Connections are limited where they are accepted, sessions where they join, memory in [`crate::budget`].
//! `docs/limits.md` says which limit protects from what.

pub mod addresses;
mod apps;
mod bucket;
mod error;
pub mod heavy;
pub mod polls;
mod rate;
pub mod reads;
pub mod turns;
pub mod users;

use std::time::Duration;

pub use error::LimitError;
pub use rate::Rates;
pub use users::UserLimits;

/// A limit that a user has reached. The messages are for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// Too many pushes per second; when the next may come.
    #[error("this user pushes too often; push again after the time in Retry-After")]
    Pushes(Duration),
    /// Too many pulls per second; when the next may come.
    #[error("this user pulls too often; pull again after the time in Retry-After")]
    Pulls(Duration),
    /// Too many bytes per day; when more may come.
    #[error("this user has pushed the maximum number of bytes per day; push again after the time in Retry-After")]
    BytesPerDay(Duration),
    /// Too many bytes stored.
    #[error(
        "this user stores the maximum number of bytes; ask for more: deletes are accepted, but free space only once the \
         server has purged what was deleted"
    )]
    BytesStored,
    /// Too many apps: the user has this many.
    #[error("this user has {0} apps, the maximum; use one of them")]
    Apps(u32),
}

/// Retry time for limits that are not lifted by time alone.
const RARELY: Duration = Duration::from_secs(300);

impl LimitReached {
    /// Returns the limit as a label; one of those in `telemetry/metrics.rs`.
    pub fn label(self) -> &'static str {
        match self {
            LimitReached::Pushes(_) => "user_pushes",
            LimitReached::Pulls(_) => "user_pulls",
            LimitReached::BytesPerDay(_) => "user_bytes_per_day",
            LimitReached::BytesStored => "user_bytes_stored",
            LimitReached::Apps(_) => "user_apps",
        }
    }

    /// Returns the code in the response body.
    pub fn code(self) -> &'static str {
        match self {
            LimitReached::Pushes(_) => "too_many_pushes",
            LimitReached::Pulls(_) => "too_many_pulls",
            LimitReached::BytesPerDay(_) => "too_many_bytes_today",
            LimitReached::BytesStored => "storage_full",
            LimitReached::Apps(_) => "too_many_apps",
        }
    }

    /// Returns the number of whole seconds after which a retry is worthwhile.
    pub fn retry_after(self) -> u64 {
        let wait = match self {
            LimitReached::Pushes(wait) | LimitReached::Pulls(wait) | LimitReached::BytesPerDay(wait) => wait,
            LimitReached::BytesStored | LimitReached::Apps(_) => RARELY,
        };
        // Rounded up, so that a retry at that time succeeds.
        wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
    }
}
