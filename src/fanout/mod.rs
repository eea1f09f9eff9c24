//! From a commit on one replica to the sessions of all: hints, and the net below them (G4).
//!
//! * [`wakeup`]: what there is to tell, and of which [`tables`]; `codec` and `legacy`: how it stands in a notification; `channel_key`: who says so.
//! * `publisher`: sends what has been committed, many wake-ups to a notification; `queue`: where wake-ups wait for it;
//!   `rate`: how often it does that. `commit_notifier`: which pushes send one with their own commit instead, because the
//!   cluster is quiet; `commit_payload`: how that one is written.
//! * [`presence`]: which replicas there are, and what each says of itself; `dates`: when it said so, whatever its clock.
//! * [`listener`]: hears the notifications of all replicas on a connection of its own that it distrusts; `receiver`: takes
//!   each to whom it concerns.
//! * [`reconciler`]: finds what no notification brought, by comparing the heads of connected users' logs with
//!   what was announced; `rewinds`: also where the database went back to an earlier state.
//!   `heads`: where those logs stand; `changes`: what changed in a range of one, a bounded part at a time; `missing`: announces
//!   it; `joins`: where the logs of users stand who have just come.
//! * [`recent`]: tells a session that has just come what was stored shortly before.
//!
//! Nothing is correct because a notification arrived, only faster. Each wake-up says which range of its log it
//! announces, from the head before it to the last cursor in it, so a lost one leaves a gap that is seen even if
//! later ones arrive.

mod changes;
mod channel_key;
pub mod codec;
mod commit_notifier;
mod commit_payload;
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
pub use tables::Tables;
pub use wakeup::Wakeup;

use crate::protocol::UserKey;
use crate::store::Head;
use std::sync::Arc;

/// Whether a user has a session here.
pub type IsConnected<'a> = &'a dyn Fn(UserKey) -> bool;

/// What a user's sessions listen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The user.
    pub user: UserKey,
    /// An app; none: all apps.
    pub app: Option<Arc<str>>,
}

/// Those whom wake-ups are for: the hub, as the fan-out sees it.
pub trait SessionRegistry: Send + Sync + 'static {
    /// Wakes the user's sessions that care, and notes which range of the log that announced.
    fn announce(&self, wakeup: &Wakeup);

    /// Whether this user has a session here.
    fn is_connected(&self, user: UserKey) -> bool;

    /// Lets somebody ask that of many users, at the cost of one lock. It must not do anything else with the sessions.
    fn with_connected(&self, ask: &mut dyn FnMut(IsConnected<'_>));

    /// What all sessions listen to: of each user all apps, or some, each once.
    fn listening(&self) -> Vec<Listening>;

    /// The same, of the sessions of one user.
    fn listening_of(&self, user: UserKey) -> Vec<Listening>;

    /// Where this user's logs stood when its first session came: only what is stored later is owed to it. Logs that are
    /// not among the heads stood at this position, or before it. Counts once; afterwards what has been announced is known
    /// better.
    fn begin(&self, user: UserKey, heads: &[Head], others: i64);

    /// Up to where the log has been announced without a gap, if that is before `head`. None for users that have
    /// not begun.
    fn announced_before(&self, user: UserKey, app: &str, head: i64) -> Option<i64>;

    /// Up to where the log has been announced without a gap. None for users that have not begun.
    fn watermark(&self, user: UserKey, app: &str) -> Option<i64>;

    /// Takes it that nothing of the log has been announced.
    fn forget(&self, user: UserKey, app: &str);
}
