//! From a commit on one replica to the sessions of all: hints, and the net below them (G4).
//!
//! * [`wakeup`]: what a notification says, and how it is written.
//! * [`publisher`]: collects what has been committed and notifies, many wake-ups to a payload, never in the
//!   transaction of a push.
//! * `pace`: how often it does that.
//! * [`listener`]: hears the notifications of all replicas on a connection of its own that it distrusts.
//! * [`reconciler`]: finds what no notification brought, by comparing the heads of connected users' logs with
//!   what was announced.
//! * [`recent`]: tells a session that has just come what was stored shortly before.
//!
//! Nothing is correct because a notification arrived, only faster. Each wake-up says which stretch of its log it
//! announces, from the head before it to the last cursor in it, so a lost one leaves a gap that is seen even if
//! later ones arrive.

pub mod listener;
mod pace;
mod publisher;
pub mod recent;
pub mod reconciler;
pub mod wakeup;

pub use pace::Heard;
pub use publisher::{Publisher, Target};
pub use reconciler::Reconciler;
pub use wakeup::Wakeup;

use crate::protocol::UserKey;
use crate::store::Head;

/// Those whom wake-ups are for: the hub, as the fan-out sees it.
pub trait Audience: Send + Sync + 'static {
    /// Wakes the user's sessions that care, and notes which stretch of the log that announced.
    fn announce(&self, wakeup: &Wakeup);

    /// Whether this user has a session here.
    fn is_connected(&self, user: UserKey) -> bool;

    /// All users that have one.
    fn connected(&self) -> Vec<UserKey>;

    /// Where this user's logs stood when its first session came: only what is stored later is owed to it.
    /// Counts once; afterwards what has been announced is known better.
    fn begin(&self, user: UserKey, heads: &[Head]);

    /// Up to where the log has been announced without a gap, if that is before `head`. None for users that have
    /// not begun.
    fn announced_before(&self, user: UserKey, app: &str, head: i64) -> Option<i64>;
}
