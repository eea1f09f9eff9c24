//! A fresh token for a session, while it is being checked.
//!
//! The issuer may have to be asked for its key, which takes a while and may fail. A failure says nothing against the
//! session, whose current token is good until it expires, so the check is retried until then.

use super::Sessions;
use crate::auth::{AuthError, Identity};
use crate::budget::UserBudget;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Pause before the check is retried after the issuer could not be reached.
const PAUSE: Duration = Duration::from_secs(2);

/// The result of the check, and the device that the session names.
pub(super) type Checked = (Result<Identity, AuthError>, Option<Arc<str>>);

/// See the module documentation.
pub(super) struct FreshToken {
    checking: BoxFuture<'static, Result<Identity, AuthError>>,
    client: Option<Arc<str>>,
}

impl fmt::Debug for FreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FreshToken")
    }
}

impl FreshToken {
    /// Begins to check a token, which is held in the user's memory; none if there is no room for it.
    pub(super) fn new(
        sessions: Arc<Sessions>,
        token: &str,
        from: Option<IpAddr>,
        client: Option<Arc<str>>,
        budget: &UserBudget,
    ) -> Option<FreshToken> {
        let reservation = budget.reserve(token.len()).now_or_never().flatten()?;
        let token = token.to_owned();
        let checking = async move {
            let _reservation = reservation;
            loop {
                match sessions.auth.check(&token, from).await {
                    Err(error @ AuthError::Unavailable(_)) => sessions.refuse(error.refusal()),
                    checked => return checked,
                }
                sleep(sessions.clock.jitter(PAUSE, 0.5..1.5)).await;
            }
        };
        Some(FreshToken { checking: Box::pin(checking), client })
    }

    /// Waits for the result of the check. Cancel safe until it has returned.
    pub(super) async fn checked(&mut self) -> Checked {
        let checked = (&mut self.checking).await;
        (checked, self.client.take())
    }
}
