//! The report of a user: sessions, devices, and stored data.

use super::Silent;
use serde::{Deserialize, Serialize};

/// A replica's knowledge of a user.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UserOnReplica {
    /// The newest sessions, as many as requested.
    pub sessions: Vec<Session>,
    /// The number of all sessions, listed or not.
    pub total: usize,
    /// The positions up to which its devices have read.
    pub reads: Vec<DeviceRead>,
    /// True if fewer are listed than requested: all of them would have been too long for an answer.
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
    /// The app it is limited to; none if it gets all apps of its user.
    pub app: Option<String>,
    /// The device, if it named one.
    pub device: Option<String>,
    /// The id of its token (`jti`), if it has one.
    pub token_id: Option<String>,
    /// When its token expires: RFC 3339.
    pub token_expires_at: Option<String>,
    /// When it began: RFC 3339.
    pub since: String,
    /// When it was last woken.
    pub woken_at: Option<String>,
    /// When it last read: streams only.
    pub read_at: Option<String>,
    /// The cursor up to which it has read; none if it has not.
    pub read_until: Option<String>,
}

/// The position up to which a device has read, as reported with its last push or pull.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceRead {
    /// The app.
    pub app: String,
    /// The device.
    pub device: String,
    /// The cursor up to which it has read.
    pub until: String,
    /// When it reported this: RFC 3339.
    pub at: String,
}

/// A user.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// The user.
    pub user_id: String,
    /// The user's name in logs: we never log a user's id.
    pub user_key: String,
    /// Sessions on all replicas.
    pub sessions: Vec<Session>,
    /// The number of all sessions, listed or not.
    pub sessions_total: usize,
    /// The logs of the user, by app.
    pub logs: Vec<Log>,
    /// The devices that have pushed or are connected.
    pub devices: Vec<Device>,
    /// The user's stored data.
    pub usage: Usage,
    /// True if what is stored could not be read in full.
    pub stored_in_part: bool,
    /// Replicas that did not answer in time.
    pub silent: Vec<Silent>,
    /// Why the database could not be asked; none if it could.
    pub problem: Option<String>,
}

/// A user's stored data in one app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Log {
    /// The app.
    pub app: String,
    /// The cursor of the newest change.
    pub head: String,
    /// The number of changes.
    pub changes: i64,
    /// Their size in bytes.
    pub bytes: i64,
    /// The number of tables.
    pub tables: i64,
    /// True if it has older changes, which are not counted.
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
    /// Stored changes that it has pushed; of long logs only the newest are counted.
    pub changes: i64,
    /// When it last pushed a change that is still stored; none if it was only seen reading.
    pub pushed_at: Option<String>,
    /// The cursor up to which it has read, if that is known.
    pub read_until: Option<String>,
    /// When it read last: RFC 3339.
    pub read_at: Option<String>,
    /// The number of its sessions.
    pub sessions: usize,
}

/// A user's stored data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// The number of apps.
    pub apps: usize,
    /// The number of changes.
    pub changes: i64,
    /// Bytes of values, stamps and other members.
    pub bytes: i64,
    /// True if there are older changes, which are not counted.
    pub more: bool,
}
