//! What is told of a replica.

use serde::{Deserialize, Serialize};

/// One replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Replica {
    /// Its name (`REPLICA_ID`).
    pub name: String,
    /// Of this life of its process, in hexadecimal digits.
    pub instance: String,
    /// Its version.
    pub version: String,
    /// When it started: RFC 3339.
    pub started_at: String,
    /// Whether it is ready for requests.
    pub ready: bool,
    /// What keeps it from being ready.
    pub missing: Vec<String>,
    /// An operator has drained it.
    pub drained: bool,
    /// It stops.
    pub stopping: bool,
    /// Who is connected.
    pub connections: Connections,
    /// Of the last ten seconds.
    pub rates: Rates,
    /// How long things take.
    pub latency: Latencies,
    /// What was refused lately, by endpoint and reason.
    pub refusals: Vec<Refused>,
    /// The connection that listens for notifications.
    pub listener: Listener,
    /// The connections to the database.
    pub database: Pool,
    /// What the process takes.
    pub process: Process,
    /// What its log shows.
    pub log: String,
    /// How often each user may push in a second; 0: as often as they like.
    pub max_user_pushes_per_second: u32,
    /// How often each user may pull, likewise.
    pub max_user_pulls_per_second: u32,
    /// Token ids that an operator refuses.
    pub refused_tokens: usize,
    /// How long its answer took, over the channel that the replicas share; none: it was asked without.
    pub answer_seconds: Option<f64>,
}

/// Open connections of a replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Connections {
    /// WebSockets.
    pub websockets: i64,
    /// Streams.
    pub streams: i64,
    /// Users with at least one of them.
    pub users: i64,
    /// TCP connections of any kind.
    pub tcp: i64,
}

/// Per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rates {
    /// Pushes a second.
    pub pushes: f64,
    /// Changes stored a second.
    pub changes: f64,
    /// Wake-ups heard a second.
    pub wakeups: f64,
    /// Refused requests a second.
    pub refusals: f64,
    /// Requests a second, of any kind.
    pub requests: f64,
    /// Sessions that ended a second.
    pub closes: f64,
}

/// Latencies of the last minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Latencies {
    /// From taking the head of a push to waking the sessions.
    pub wakeup: Latency,
    /// Storing a push and reading its delta.
    pub push: Latency,
}

/// Upper bounds, as exact as the buckets of the metrics; none where nothing was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Latency {
    /// Half of them took at most so many seconds; none: there were none.
    pub p50: Option<f64>,
    /// 99 % of them took at most so many seconds.
    pub p99: Option<f64>,
    /// How many there were.
    pub count: u64,
}

/// Requests that were refused for one reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Refused {
    /// Of which endpoint.
    pub endpoint: String,
    /// Why, as in `mana_sync_refusals_total`.
    pub reason: String,
    /// Since the replica started.
    pub total: u64,
    /// How many a second.
    pub per_second: f64,
}

/// The connection that hears what other replicas announce.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    /// Whether it hears now.
    pub up: bool,
    /// How long the last notification of this replica took until it heard it itself, in seconds; none: it does not hear.
    pub lag_seconds: Option<f64>,
    /// How often it has connected.
    pub connects: u64,
    /// Wake-ups that wait to be published.
    pub publish_queue: i64,
    /// Wake-ups that no notification brought, since the start.
    pub reconciled: u64,
}

/// The connections of the pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pool {
    /// Open ones.
    pub open: i64,
    /// Those of them that wait for work.
    pub idle: i64,
    /// How many there may be.
    pub limit: i64,
    /// Statements that wait for a connection.
    pub waiting: i64,
    /// How full PostgreSQL's queue of notifications is, from 0 to 1.
    pub notification_queue: f64,
}

/// What the process takes from its host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Resident memory, in bytes.
    pub memory_bytes: u64,
    /// Open file descriptors.
    pub open_files: u64,
}
