//! What the admin surface tells, as its API writes it: docs/admin-openapi.yaml describes it. Times are RFC 3339 in UTC,
//! durations and latencies in seconds.

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

/// One replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Replica {
    pub name: String,
    /// Of this life of its process, in hexadecimal digits.
    pub instance: String,
    pub version: String,
    pub started_at: String,
    pub ready: bool,
    /// What keeps it from being ready.
    pub missing: Vec<String>,
    /// An operator has drained it.
    pub drained: bool,
    /// It stops.
    pub stopping: bool,
    pub connections: Connections,
    /// Of the last ten seconds.
    pub rates: Rates,
    pub latency: Latencies,
    pub refusals: Vec<Refused>,
    pub listener: Listener,
    pub database: Pool,
    pub process: Process,
    /// What its log shows.
    pub log: String,
    pub refused_tokens: usize,
    /// How long its answer took, over the channel that the replicas share; none: it was asked without.
    pub answer_seconds: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Connections {
    pub websockets: i64,
    pub streams: i64,
    /// Users with at least one of them.
    pub users: i64,
    pub tcp: i64,
}

/// Per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rates {
    pub pushes: f64,
    pub changes: f64,
    pub wakeups: f64,
    pub refusals: f64,
    pub requests: f64,
    pub closes: f64,
}

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
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub count: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Refused {
    pub endpoint: String,
    pub reason: String,
    /// Since the replica started.
    pub total: u64,
    pub per_second: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    pub up: bool,
    pub connects: u64,
    /// Wake-ups that wait to be published.
    pub publish_queue: i64,
    /// Wake-ups that no notification brought, since the start.
    pub reconciled: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pool {
    pub open: i64,
    pub idle: i64,
    pub limit: i64,
    /// Statements that wait for a connection.
    pub waiting: i64,
    /// How full PostgreSQL's queue of notifications is, from 0 to 1.
    pub notification_queue: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    pub memory_bytes: u64,
    pub open_files: u64,
}

/// A replica that is known and has not answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Silent {
    pub name: String,
    pub instance: String,
    /// When it was last heard.
    pub heard_at: String,
}

/// All replicas.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    pub at: String,
    /// The one that was asked first.
    pub replicas: Vec<Replica>,
    pub silent: Vec<Silent>,
    /// Why others could not be asked; none: they were.
    pub problem: Option<String>,
    pub database: Option<Database>,
}

/// PostgreSQL, as the replica that was asked sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Database {
    pub version: String,
    pub bytes: i64,
    /// Bytes of the tables of changes and heads, with their indexes.
    pub log_bytes: i64,
    /// Rows of the log, as PostgreSQL estimates.
    pub changes: i64,
    pub logs: i64,
    pub connections: i64,
    pub max_connections: i64,
    /// Of the oldest transaction that is open.
    pub oldest_transaction_seconds: f64,
    /// Transaction ids since the oldest row that is not frozen; at 2,000 million PostgreSQL stops.
    pub transaction_age: i64,
}

/// What a replica knows of a user.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UserOnReplica {
    /// Those that came last, as many as were asked for.
    pub sessions: Vec<Session>,
    /// All, listed or not.
    pub total: usize,
    pub reads: Vec<DeviceRead>,
}

/// A WebSocket or a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Session {
    pub replica: String,
    pub transport: String,
    /// None: it hears of all apps of its user.
    pub app: Option<String>,
    pub device: Option<String>,
    pub token_id: Option<String>,
    pub token_expires_at: Option<String>,
    pub since: String,
    /// When it was last woken.
    pub woken_at: Option<String>,
    /// When it last read, and up to where: streams only.
    pub read_at: Option<String>,
    pub read_until: Option<String>,
}

/// How far a device has read: what it said when it pushed or pulled last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceRead {
    pub app: String,
    pub device: String,
    pub until: String,
    pub at: String,
}

/// A user.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    pub user_id: String,
    /// What logs call the user: nothing of ours writes a user's id there.
    pub user_key: String,
    pub sessions: Vec<Session>,
    /// All, listed or not.
    pub sessions_total: usize,
    pub logs: Vec<Log>,
    pub devices: Vec<Device>,
    pub usage: Usage,
    pub silent: Vec<Silent>,
    pub problem: Option<String>,
}

/// What a user has stored in one app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Log {
    pub app: String,
    /// The cursor of the newest change.
    pub head: String,
    pub changes: i64,
    pub bytes: i64,
    pub tables: i64,
}

/// A device in one app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    pub app: String,
    pub device: String,
    pub changes: i64,
    /// When it last pushed a change that is stored; none: only seen to read.
    pub pushed_at: Option<String>,
    /// Up to where it has read, and when that was known, as far as it is.
    pub read_until: Option<String>,
    pub read_at: Option<String>,
    pub sessions: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    pub apps: usize,
    pub changes: i64,
    pub bytes: i64,
}

/// A record, and why it is as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    pub user_id: String,
    pub app: String,
    pub table: String,
    pub id: String,
    pub deleted: bool,
    pub fields: Vec<Field>,
    /// All changes of it that are stored, oldest first.
    pub history: Vec<Change>,
    /// Whether there are more than are listed.
    pub truncated: bool,
}

/// A field as it stands, and the write that won.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Field {
    pub name: String,
    pub value: serde_json::Value,
    pub stamp: String,
    pub device: String,
    /// The position of the change in its log.
    pub cursor: String,
}

/// A stored change of a record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Change {
    /// The id of its row.
    pub id: String,
    pub cursor: String,
    pub op: String,
    pub device: String,
    pub writes: Vec<Write>,
}

/// What a change wrote to one field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Write {
    pub field: String,
    pub value: serde_json::Value,
    pub stamp: String,
    /// Whether it is what the field has now.
    pub wins: bool,
    /// Whether it has been taken out of the log, and is known from its history only.
    pub trimmed: bool,
}

/// A token that is not accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RefusedToken {
    pub token_id: String,
    pub until: String,
}

/// What an action did on one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Outcome {
    pub replica: String,
    pub done: bool,
    pub message: String,
}

/// What an action did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Done {
    pub outcomes: Vec<Outcome>,
    /// Replicas that are known and have not answered: it may have been done there or not.
    pub silent: Vec<Silent>,
    pub problem: Option<String>,
}
