//! The messages by which replicas announce themselves on the channel.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A replica, as it describes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Identifies this run of its process.
    pub id: String,
    /// REPLICA_ID, or the host's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When it started, in milliseconds since the epoch.
    pub since: u64,
    /// Its WebSockets and streams.
    pub connections: u64,
    /// How many of them it has closed so far to rebalance. Replicas of earlier versions do not say.
    #[serde(default)]
    pub rebalanced: u64,
    /// True if load balancers should send it requests.
    pub ready: bool,
    /// True if it is about to stop.
    pub draining: bool,
}

/// One message. Unknown members are ignored.
#[derive(Serialize, Deserialize)]
pub(super) struct Envelope {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) presence: Option<Message>,
}

/// Announces that a replica is there, or that it leaves.
#[derive(Serialize, Deserialize)]
pub(super) struct Message {
    #[serde(flatten)]
    pub(super) replica: Replica,
    /// When it was sent, in milliseconds since the epoch.
    pub(super) at: u64,
    /// The longest time until the next message, in milliseconds.
    pub(super) every: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub(super) gone: bool,
}

/// When a message was sent, if it says so, since 1970.
pub(super) fn date_of(said: &str) -> Option<Duration> {
    let message = serde_json::from_str::<Envelope>(said).ok()?.presence?;
    Some(Duration::from_millis(message.at))
}
