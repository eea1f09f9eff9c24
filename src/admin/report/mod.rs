//! The answers of the admin surface, in the form of its API, as described in docs/admin-openapi.yaml. Times are RFC
//! 3339 in UTC, durations and latencies in seconds.

mod record;
mod replica;
mod user;

pub use crate::store::inspect::DatabaseState as Database;
pub use record::{Change, Field, Json, Record, Write};
pub use replica::{Connections, Latencies, Latency, Listener, Pool, Process, Rates, Refused, Replica};
pub use user::{Device, DeviceRead, Log, Session, Usage, User, UserOnReplica};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Formats a time.
pub fn time(at: SystemTime) -> String {
    DateTime::<Utc>::from(at).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Formats a time in milliseconds since the epoch.
pub fn time_of_millis(millis: u64) -> String {
    time(UNIX_EPOCH + Duration::from_millis(millis.min(1 << 47)))
}

/// A known replica that has not answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Silent {
    /// The name of the replica that did not answer.
    pub name: String,
    /// The id of its process.
    pub instance: String,
    /// When it was last heard of.
    pub heard_at: String,
}

/// All replicas.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    /// When it was asked: RFC 3339.
    pub at: String,
    /// All replicas that answered, the one asked first in front.
    pub replicas: Vec<Replica>,
    /// Replicas that did not answer in time.
    pub silent: Vec<Silent>,
    /// Why others could not be asked; none if they were.
    pub problem: Option<String>,
    /// The state of the database; none if it could not be asked.
    pub database: Option<Database>,
}

/// The load of all replicas in the last minutes.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// The one that was asked first.
    pub replicas: Vec<ReplicaLoad>,
    /// Replicas that did not answer in time.
    pub silent: Vec<Silent>,
    /// Why others could not be asked; none: they were.
    pub problem: Option<String>,
}

/// One second of a replica.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Second {
    /// Pushes.
    pub pushes: f64,
    /// Refused requests.
    pub refusals: f64,
    /// Delivered wake-ups.
    pub wakeups: f64,
    /// Open WebSockets and streams.
    pub connections: i64,
    /// The 99th percentile in that second, in seconds; none if nothing was delivered.
    pub wakeup_p99: Option<f64>,
}

/// The load of one replica in the last minutes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaLoad {
    /// The replica.
    pub name: String,
    /// Second by second, the newest last.
    pub seconds: Vec<Second>,
}

/// A refused token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RefusedToken {
    /// The id of the token (`jti`).
    pub token_id: String,
    /// Until when it is refused: RFC 3339.
    pub until: String,
}

/// The tokens that are refused anywhere.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RefusedTokens {
    /// The tokens, in the order of their ids.
    pub refused_tokens: Vec<RefusedToken>,
    /// Replicas that did not answer in time.
    pub silent: Vec<Silent>,
    /// Why others could not be asked; none if they were.
    pub problem: Option<String>,
}

/// The outcome of an action on one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Outcome {
    /// The replica.
    pub replica: String,
    /// True if it executed the action.
    pub done: bool,
    /// Its message.
    pub message: String,
}

/// The outcome of an action.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Done {
    /// The outcome on each replica.
    pub outcomes: Vec<Outcome>,
    /// Known replicas that have not answered: the action may or may not have been executed there.
    pub silent: Vec<Silent>,
    /// Why not all of them could be told; none if they could.
    pub problem: Option<String>,
}

impl Done {
    /// True if everything was done everywhere.
    pub fn is_whole(&self) -> bool {
        self.silent.is_empty() && self.problem.is_none() && self.outcomes.iter().all(|outcome| outcome.done)
    }
}
