//! How a replica says on the channel that it is there.

use serde::{Deserialize, Serialize};

/// What a replica says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Of this life of its process.
    pub id: String,
    /// What it is called: REPLICA_ID, or the name of its host.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When it started, in milliseconds since the epoch.
    pub since: u64,
    /// Its WebSockets and streams.
    pub connections: u64,
    /// Whether balancers should send it anything.
    pub ready: bool,
    /// Whether it is about to stop.
    pub draining: bool,
}

/// One message. Members that are not known are passed over.
#[derive(Serialize, Deserialize)]
pub(super) struct Envelope {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) presence: Option<Message>,
}

/// That a replica is there, or leaves.
#[derive(Serialize, Deserialize)]
pub(super) struct Message {
    #[serde(flatten)]
    pub(super) replica: Replica,
    /// When it said so, in milliseconds since the epoch.
    pub(super) at: u64,
    /// When it will again, at the latest, in milliseconds from then.
    pub(super) every: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub(super) gone: bool,
}
