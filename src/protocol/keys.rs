//! Short keys of fixed size for users and logs, independent of the length of user and app ids.

use sha2::{Digest, Sha256};
use std::sync::Arc;
use uuid::Uuid;

/// Identifies a user inside the cluster: 122 bits of the SHA-256 of the user id.
///
/// Data keyed by it never mixes with another user's (G5): finding two ids with one key would take 2⁶¹ tries, and ids
/// are assigned by the token issuer, not chosen by users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserKey(pub Uuid);

impl UserKey {
    /// Returns the key of a user id.
    pub fn of(user: &str) -> UserKey {
        UserKey(digest(&["user", user]))
    }
}

/// Identifies the log of one user in one app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub Uuid);

impl LogId {
    /// Returns the id of a user's log in an app.
    pub fn of(user: UserKey, app: &str) -> LogId {
        LogId(digest(&["log", &user.0.to_string(), app]))
    }
}

/// One user's log in one app, as requests name it.
#[derive(Clone, Debug)]
pub struct Log {
    /// The id of the log.
    pub id: LogId,
    /// The key of the user.
    pub user: UserKey,
    /// The user.
    pub user_id: Arc<str>,
    /// The app.
    pub app: Arc<str>,
}

impl Log {
    /// Creates the log of a user in an app.
    pub fn new(user_id: Arc<str>, app: &str) -> Log {
        let user = UserKey::of(&user_id);
        Log { id: LogId::of(user, app), user, user_id, app: app.into() }
    }
}

fn digest(texts: &[&str]) -> Uuid {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
