//! The report of a replica.

use serde::{Deserialize, Serialize};

/// A replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Replica {
    /// Its name (`REPLICA_ID`).
    pub name: String,
    /// Identifies this run of its process, in hexadecimal digits.
    pub instance: String,
    /// Its version.
    pub version: String,
    /// When it started: RFC 3339.
    pub started_at: String,
    /// True if it is ready for requests.
    pub ready: bool,
    /// The reasons why it is not ready.
    pub missing: Vec<String>,
    /// True if an operator has drained it.
    pub drained: bool,
    /// True if it is stopping.
    pub stopping: bool,
    /// Its open connections.
    pub connections: Connections,
    /// Rates over the last ten seconds.
    pub rates: Rates,
    /// Latencies.
    pub latency: Latencies,
    /// Recent refusals, by endpoint and reason.
    pub refusals: Vec<Refused>,
    /// The connection that listens for notifications.
    pub listener: Listener,
    /// The connections to the database.
    pub database: Pool,
    /// The resources of the process.
    pub process: Process,
    /// Its log filter.
    pub log: String,
    /// Maximum pushes per second of each user; 0 means no limit.
    pub max_user_pushes_per_second: u32,
    /// Maximum pulls per second of each user; 0 means no limit.
    pub max_user_pulls_per_second: u32,
    /// The number of token ids that an operator refuses.
    pub refused_tokens: usize,
    /// The time its answer took over the channel of the replicas; none if it was asked directly.
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

/// Rates per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rates {
    /// Pushes per second.
    pub pushes: f64,
    /// Stored changes per second.
    pub changes: f64,
    /// Received wake-ups per second.
    pub wakeups: f64,
    /// Refused requests per second.
    pub refusals: f64,
    /// Requests per second, of any kind.
    pub requests: f64,
    /// Ended sessions per second.
    pub closes: f64,
}

/// Latencies over the last ten seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Latencies {
    /// From taking the head for a push to waking the sessions.
    pub wakeup: Latency,
    /// Storing a push and reading its delta.
    pub push: Latency,
}

/// Upper bounds, as exact as the buckets of the metrics; none if nothing was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Latency {
    /// Half of them took at most this many seconds; none if there were none.
    pub p50: Option<f64>,
    /// 99 % of them took at most this many seconds.
    pub p99: Option<f64>,
    /// The number of measurements.
    pub count: u64,
}

/// Requests refused for one reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Refused {
    /// The endpoint.
    pub endpoint: String,
    /// The reason, as in `mana_sync_refusals_total`.
    pub reason: String,
    /// Since the replica started.
    pub total: u64,
    /// The number per second.
    pub per_second: f64,
}

/// The connection that receives notifications of other replicas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    /// True if it is listening.
    pub up: bool,
    /// The time this replica's last notification took to come back to it, in seconds; none if it is not listening.
    pub lag_seconds: Option<f64>,
    /// The number of times it has connected.
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
    /// Open connections.
    pub open: i64,
    /// Idle connections.
    pub idle: i64,
    /// Maximum number of connections.
    pub limit: i64,
    /// Statements waiting for a connection.
    pub waiting: i64,
    /// The used fraction of PostgreSQL's notification queue, from 0 to 1.
    pub notification_queue: f64,
}

/// The resources that the process uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Resident memory, in bytes.
    pub memory_bytes: u64,
    /// Open file descriptors.
    pub open_files: u64,
}
