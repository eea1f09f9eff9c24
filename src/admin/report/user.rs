//! What is told of a user: sessions, devices, and what is stored.

use super::Silent;
use serde::{Deserialize, Serialize};

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
    /// Fewer are listed than were asked for: all would have been too long for an answer.
    pub truncated: bool,
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
    /// It has older changes, which are not counted.
    pub more: bool,
}

/// A device in one app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// The app.
    pub app: String,
    /// The device.
    pub device: String,
    /// Changes that it has pushed and that are still stored; of long logs only the newest are counted.
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
    /// There are older changes, which are not counted.
    pub more: bool,
}
