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

/// PostgreSQL, as the replica that was asked sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Database {
    /// The version of PostgreSQL.
    pub version: String,
    /// The size of the database, in bytes.
    pub bytes: i64,
    /// Bytes of the tables of changes and heads, with their indexes.
    pub log_bytes: i64,
    /// Rows of the log, as PostgreSQL estimates.
    pub changes: i64,
    /// How many logs there are.
    pub logs: i64,
    /// Connections to it, from everywhere.
    pub connections: i64,
    /// How many it allows.
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
    /// How far its devices have read.
    pub reads: Vec<DeviceRead>,
}

/// A WebSocket or a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Session {
    /// The replica that holds it.
    pub replica: String,
    /// `websocket` or `sse`.
    pub transport: String,
    /// None: it hears of all apps of its user.
    pub app: Option<String>,
    /// The device, if it said so.
    pub device: Option<String>,
    /// The id of its token (`jti`), if it has one.
    pub token_id: Option<String>,
    /// When its token expires: RFC 3339.
    pub token_expires_at: Option<String>,
    /// When it began: RFC 3339.
    pub since: String,
    /// When it was last woken.
    pub woken_at: Option<String>,
    /// When it last read, and up to where: streams only.
    pub read_at: Option<String>,
    /// The cursor up to which it has read; none if it has not.
    pub read_until: Option<String>,
}

/// How far a device has read: what it said when it pushed or pulled last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceRead {
    /// The app.
    pub app: String,
    /// The device.
    pub device: String,
    /// The cursor up to which it has read.
    pub until: String,
    /// When it did: RFC 3339.
    pub at: String,
}

/// A user.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// The user.
    pub user_id: String,
    /// What logs call the user: nothing of ours writes a user's id there.
    pub user_key: String,
    /// Sessions on all replicas.
    pub sessions: Vec<Session>,
    /// All, listed or not.
    pub sessions_total: usize,
    /// The logs of the user, by app.
    pub logs: Vec<Log>,
    /// The devices that have pushed or are connected.
    pub devices: Vec<Device>,
    /// What is stored of the user.
    pub usage: Usage,
    /// Replicas that did not answer in time.
    pub silent: Vec<Silent>,
    /// Why the database could not be asked; none if it could.
    pub problem: Option<String>,
}

/// What a user has stored in one app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Log {
    /// The app.
    pub app: String,
    /// The cursor of the newest change.
    pub head: String,
    /// Changes in it.
    pub changes: i64,
    /// Their bytes.
    pub bytes: i64,
    /// Tables in it.
    pub tables: i64,
}

/// A device in one app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// The app.
    pub app: String,
    /// The device.
    pub device: String,
    /// Changes that it has pushed and that are still stored.
    pub changes: i64,
    /// When it last pushed a change that is stored; none: only seen to read.
    pub pushed_at: Option<String>,
    /// Up to where it has read, and when that was known, as far as it is.
    pub read_until: Option<String>,
    /// When it read last: RFC 3339.
    pub read_at: Option<String>,
    /// How many sessions it has.
    pub sessions: usize,
}

/// What is stored of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Apps.
    pub apps: usize,
    /// Changes.
    pub changes: i64,
    /// Bytes of values, stamps and other members.
    pub bytes: i64,
}

/// A record, and why it is as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// The user.
    pub user_id: String,
    /// The app.
    pub app: String,
    /// The table.
    pub table: String,
    /// The record.
    pub id: String,
    /// Whether it is deleted.
    pub deleted: bool,
    /// Its fields, as they stand.
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
    /// The name of the field.
    pub name: String,
    /// Its value.
    pub value: serde_json::Value,
    /// The stamp that won.
    pub stamp: String,
    /// The device that wrote it.
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
    /// The position in the log.
    pub cursor: String,
    /// `insert`, `update` or `delete`.
    pub op: String,
    /// The device that wrote it.
    pub device: String,
    /// What it wrote, field by field.
    pub writes: Vec<Write>,
}

/// What a change wrote to one field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Write {
    /// The field.
    pub field: String,
    /// The value.
    pub value: serde_json::Value,
    /// Its stamp.
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
