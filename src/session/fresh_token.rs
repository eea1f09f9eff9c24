//! A token that a session is to go on with, while it is being checked.
//!
//! Its key may be one that the issuer has to be asked for, which takes a while and may fail. That says nothing against the
//! session, whose token is good until it expires: so it is asked again until then.

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

/// Pause before a token is checked again whose key could not be asked for.
const PAUSE: Duration = Duration::from_secs(2);

/// What came of it, and which device the session says it is of.
pub(super) type Checked = (Result<Identity, AuthError>, Option<Arc<str>>);

/// See the module.
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
    /// Begins to check a token, which is kept in the user's memory; none if there is not so much.
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

    /// Waits until it is known whether the token is good. May be given up and asked again, until it has been told.
    pub(super) async fn checked(&mut self) -> Checked {
        let checked = (&mut self.checking).await;
        (checked, self.client.take())
    }
}
