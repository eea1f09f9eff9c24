//! The sessions of this replica, for operators.

use super::session::SessionInfo;
use super::{Hub, Mailbox};
use crate::protocol::UserKey;
use crate::protocol::close::CloseReason;
use std::sync::{Arc, PoisonError};

impl Hub {
    /// Returns a user's sessions on this replica, newest first.
    pub fn sessions_of(&self, user: UserKey) -> Vec<SessionInfo> {
        let mailboxes = self.shard(user).get(&user).map(|user| user.mailboxes.clone()).unwrap_or_default();
        mailboxes.iter().rev().filter_map(|mailbox| info(mailbox)).collect()
    }

    /// Closes a user's sessions, or those of one device; returns how many.
    pub fn close_user(&self, user: UserKey, device: Option<&str>) -> usize {
        let mailboxes = self.shard(user).get(&user).map(|user| user.mailboxes.clone()).unwrap_or_default();
        let is_meant = |mailbox: &&Arc<Mailbox>| {
            let is_session = mailbox.session.transport.is_some();
            is_session && (device.is_none() || mailbox.interest().client.as_deref() == device)
        };
        let close = |mailbox: &&Arc<Mailbox>| mailbox.session.close(CloseReason::Disconnected);
        mailboxes.iter().filter(is_meant).filter(close).count()
    }

    /// Closes the sessions that use this token; returns how many. Visits every session of this replica, one lock at a
    /// time.
    pub fn close_token(&self, token_id: &str) -> usize {
        let mut closed = 0;
        for shard in &self.shards {
            let users = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for mailbox in users.values().flat_map(|user| &user.mailboxes) {
                let is_meant = mailbox.session.noted().token_id.as_deref() == Some(token_id);
                closed += usize::from(is_meant && mailbox.session.close(CloseReason::InvalidToken));
            }
        }
        closed
    }
}

/// Returns none for a request that waits.
fn info(mailbox: &Mailbox) -> Option<SessionInfo> {
    let (interest, noted) = (mailbox.interest(), mailbox.session.noted());
    Some(SessionInfo {
        transport: mailbox.session.transport?,
        app: interest.app,
        device: interest.client,
        token_id: noted.token_id,
        expires: noted.expires,
        since: mailbox.session.since,
        woken: noted.woken,
        read: noted.read,
    })
}
