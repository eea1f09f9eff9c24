//! Delivers a commit on one replica to the sessions of all: hints, and a safety net below them (G4).
//!
//! * [`wakeup`]: what is announced, with its [`tables`]; `codec` and `legacy`: its encoding; `channel_key`: its
//!   signature.
//! * `publisher`: sends what has been committed, many wake-ups per notification; `queue`: holds wake-ups until then;
//!   `rate`: limits how often it sends. `commit_notifier`: selects the pushes that notify with their own commit
//!   instead, because the cluster is quiet; `commit_payload`: the encoding of those notifications.
//! * [`presence`]: which replicas exist and what they report; `dates`: dates their reports, whatever their clocks.
//! * [`listener`]: receives the notifications of all replicas on a connection of its own that it does not trust;
//!   `receiver`: dispatches each to the sessions it concerns; `repeats`: recognizes what somebody sends again.
//! * [`reconciler`]: finds what no notification brought, by comparing the heads of connected users' logs with what was
//!   announced; `rewinds`: the same when the database went back to an earlier state. `heads`: reads those heads;
//!   `changes`: reads what changed in a range, one bounded part at a time; `missing`: announces it; `joins`: reads the
//!   positions of the logs of users who have just connected.
//! * [`recent`]: tells a new session what was stored shortly before.
//!
//! Nothing depends on a notification for correctness, only for speed. Each wake-up carries the range of its log that it
//! announces, from the head before it to the last cursor in it, so a lost one leaves a gap that is noticed even if
//! later ones arrive.

mod changes;
mod channel_key;
pub mod codec;
mod commit_notifier;
pub mod commit_payload;
mod dates;
mod dependencies;
mod heads;
mod joins;
mod legacy;
pub mod listener;
mod listener_status;
mod missing;
pub mod presence;
mod publisher;
mod queue;
mod rate;
mod receiver;
pub mod recent;
pub mod reconciler;
mod repeats;
mod rewinds;
pub mod tables;
pub mod wakeup;

#[cfg(test)]
mod testing;

pub use channel_key::ChannelKeys;
pub use dependencies::Dependencies;
pub use presence::Presence;
pub use publisher::{Publisher, PublisherConfig, PublisherConnector};
pub use rate::NotificationCounter;
pub use receiver::Receiver;
pub use reconciler::Reconciler;
pub use repeats::Repeats;
pub use tables::Tables;
pub use wakeup::Wakeup;

use crate::protocol::UserKey;
use crate::store::Head;
use std::sync::Arc;

/// True if a user has a session here.
pub type IsConnected<'a> = &'a dyn Fn(UserKey) -> bool;

/// An app, or all apps, of a user that sessions listen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The user.
    pub user: UserKey,
    /// An app; `None` means all apps.
    pub app: Option<Arc<str>>,
}

/// The recipients of wake-ups: the hub, as the fan-out sees it.
pub trait SessionRegistry: Send + Sync + 'static {
    /// Wakes the user's sessions that are interested, and notes the range of the log that was announced.
    fn announce(&self, wakeup: &Wakeup);

    /// True if this user has a session here.
    fn is_connected(&self, user: UserKey) -> bool;

    /// Lets a caller check many users at the cost of one lock. It must not do anything else with the sessions.
    fn with_connected(&self, ask: &mut dyn FnMut(IsConnected<'_>));

    /// Returns what all sessions listen to: for each user all apps, or some apps once each.
    fn listening(&self) -> Vec<Listening>;

    /// Like [`listening`](Self::listening), for the sessions of one user.
    fn listening_of(&self, user: UserKey) -> Vec<Listening>;

    /// Sets the positions of this user's logs when its first session began: only what is stored later has to be
    /// announced to it. Logs that are not among the heads were at `others`, or before it. Only the first call counts;
    /// after that, what has been announced is known more precisely.
    fn begin(&self, user: UserKey, heads: &[Head], others: i64);

    /// Returns the position up to which the log has been announced without a gap, if that is before `head`. None for
    /// users that have not begun.
    fn announced_before(&self, user: UserKey, app: &str, head: i64) -> Option<i64>;

    /// Returns the position up to which the log has been announced without a gap. None for users that have not begun.
    fn watermark(&self, user: UserKey, app: &str) -> Option<i64>;

    /// Forgets what has been announced of the log.
    fn forget(&self, user: UserKey, app: &str);
}
