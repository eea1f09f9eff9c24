//! What one user may do (G6): limits that operators set, and shares that keep users from each other's way.
//!
//! * [`users`]: pushes and pulls in a second, bytes in a day, bytes stored.
//! * [`addresses`]: connections from one address.
//! * [`apps`]: how many apps a user may have.
//! * [`polls`]: readers that ask without a pause.
//! * [`heavy`]: work that would keep a thread for long.
//! * [`reads`]: how much of the database one user's reads may take.
//!
//! Connections are bounded where they are accepted, sessions where they join, memory in [`crate::budget`].
//! `docs/limits.md` says which limit protects from what.

pub mod addresses;
mod apps;
mod bucket;
mod error;
pub mod heavy;
pub mod polls;
mod rate;
pub mod reads;
pub mod users;

use std::time::Duration;

pub use error::LimitError;
pub use rate::Rates;
pub use users::UserLimits;

/// A limit that a user has reached. The messages are for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// Too many pushes a second; when the next may come.
    #[error("this user pushes more often than is allowed; push again after the time in Retry-After")]
    Pushes(Duration),
    /// Too many pulls a second; when the next may come.
    #[error("this user pulls more often than is allowed; pull again after the time in Retry-After")]
    Pulls(Duration),
    /// Too many bytes a day; when more may come.
    #[error("this user has pushed as many bytes as are allowed in a day; push again after the time in Retry-After")]
    BytesPerDay(Duration),
    /// Too many bytes stored.
    #[error(
        "this user stores as many bytes as are allowed; ask for more: a delete is taken, but it makes room only once the \
         server has purged what was deleted"
    )]
    BytesStored,
    /// Too many apps: as many as this.
    #[error("this user has {0} apps, as many as are allowed; use one of them")]
    Apps(u32),
}

/// When somebody who has reached a limit that time alone does not lift may ask again.
const RARELY: Duration = Duration::from_secs(300);

impl LimitReached {
    /// The limit as a label; one of those in `telemetry/metrics.rs`.
    pub fn label(self) -> &'static str {
        match self {
            LimitReached::Pushes(_) => "user_pushes",
            LimitReached::Pulls(_) => "user_pulls",
            LimitReached::BytesPerDay(_) => "user_bytes_per_day",
            LimitReached::BytesStored => "user_bytes_stored",
            LimitReached::Apps(_) => "user_apps",
        }
    }

    /// The code in the body of the answer.
    pub fn code(self) -> &'static str {
        match self {
            LimitReached::Pushes(_) => "too_many_pushes",
            LimitReached::Pulls(_) => "too_many_pulls",
            LimitReached::BytesPerDay(_) => "too_many_bytes_today",
            LimitReached::BytesStored => "storage_full",
            LimitReached::Apps(_) => "too_many_apps",
        }
    }

    /// After how many whole seconds it is worth trying again.
    pub fn retry_after(self) -> u64 {
        let wait = match self {
            LimitReached::Pushes(wait) | LimitReached::Pulls(wait) | LimitReached::BytesPerDay(wait) => wait,
            LimitReached::BytesStored | LimitReached::Apps(_) => RARELY,
        };
        // Rounded up: who comes back as soon as it says finds room.
        wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
    }
}
