//! What the admin surface tells, as its API writes it: docs/admin-openapi.yaml describes it. Times are RFC 3339 in UTC,
//! durations and latencies in seconds.

mod record;
mod replica;
mod user;

pub use crate::store::inspect::DatabaseState as Database;
pub use record::{Change, Field, Record, Write};
pub use replica::{Connections, Latencies, Latency, Listener, Pool, Process, Rates, Refused, Replica};
pub use user::{Device, DeviceRead, Log, Session, Usage, User, UserOnReplica};

use super::rates::Second;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time as it is written.
pub fn time(at: SystemTime) -> String {
    DateTime::<Utc>::from(at).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A time in milliseconds since the epoch as it is written.
pub fn time_of_millis(millis: u64) -> String {
    time(UNIX_EPOCH + Duration::from_millis(millis.min(1 << 47)))
}

/// A replica that is known and has not answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Silent {
    /// The name of the replica that did not answer.
    pub name: String,
    /// Which of its lives.
    pub instance: String,
    /// When it was last heard.
    pub heard_at: String,
}

/// All replicas.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    /// When it was asked: RFC 3339.
    pub at: String,
    /// The one that was asked first.
    pub replicas: Vec<Replica>,
    /// Replicas that did not answer in time.
    pub silent: Vec<Silent>,
    /// Why others could not be asked; none: they were.
    pub problem: Option<String>,
    /// What the database says of itself; none if it could not be asked.
    pub database: Option<Database>,
}

/// What replicas did in the last minutes.
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

/// What one replica did in the last minutes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaLoad {
    /// The replica.
    pub name: String,
    /// Second by second, the newest last.
    pub seconds: Vec<Second>,
}

/// A token that is not accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RefusedToken {
    /// The id of the token (`jti`).
    pub token_id: String,
    /// Until when it is refused: RFC 3339.
    pub until: String,
}

/// What an action did on one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Outcome {
    /// The replica.
    pub replica: String,
    /// Whether it did what it was told to.
    pub done: bool,
    /// What it says to that.
    pub message: String,
}

/// What an action did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Done {
    /// What each replica did.
    pub outcomes: Vec<Outcome>,
    /// Replicas that are known and have not answered: it may have been done there or not.
    pub silent: Vec<Silent>,
    /// Why not all of them could be told; none if they could.
    pub problem: Option<String>,
}

impl Done {
    /// Whether everything was done, everywhere.
    pub fn is_whole(&self) -> bool {
        self.silent.is_empty() && self.problem.is_none() && self.outcomes.iter().all(|outcome| outcome.done)
    }
}
