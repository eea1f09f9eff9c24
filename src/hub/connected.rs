//! The set of connected users. Every notification checks each of its users against it, and most are not connected.

use crate::fanout::IsConnected;
use crate::protocol::UserKey;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The users with a session here.
#[derive(Debug, Default)]
pub(super) struct Connected {
    users: RwLock<Users>,
}

type Users = HashSet<u128, BuildHasherDefault<KeyHasher>>;

impl Connected {
    pub(super) fn add(&self, user: UserKey) {
        self.write().insert(user.0.as_u128());
    }

    pub(super) fn remove(&self, user: UserKey) {
        let mut users = self.write();
        users.remove(&user.0.as_u128());
        // Memory taken by a storm of connections is released.
        if users.capacity() > 1024 && users.len() < users.capacity() / 8 {
            let fewer = users.capacity() / 4;
            users.shrink_to(fewer);
        }
    }

    pub(super) fn has(&self, user: UserKey) -> bool {
        self.read().contains(&user.0.as_u128())
    }

    /// Lets a caller check many users while holding the lock once.
    pub(super) fn with(&self, ask: &mut dyn FnMut(IsConnected<'_>)) {
        let users = self.read();
        ask(&|user| users.contains(&user.0.as_u128()));
    }

    fn read(&self) -> RwLockReadGuard<'_, Users> {
        self.users.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Users> {
        self.users.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hashes keys that are already digests. Clients cannot choose them: they are derived from ids that the issuer assigns.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write_u128(&mut self, key: u128) {
        // Six bits are the same in all keys; the other half covers them.
        self.0 = key as u64 ^ (key >> 64) as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::BuildHasher;

    #[test]
    fn users_are_found_from_when_they_come_to_when_they_go() {
        let connected = Connected::default();
        let users: Vec<UserKey> = (0..5_000).map(|n| UserKey::of(&n.to_string())).collect();
        users.iter().for_each(|user| connected.add(*user));
        assert!(users.iter().all(|user| connected.has(*user)));
        assert!(!connected.has(UserKey::of("other")));
        users[1..].iter().for_each(|user| connected.remove(*user));
        connected.with(&mut |is_connected| assert!(is_connected(users[0]) && !is_connected(users[1])));
        assert!(connected.read().capacity() < 5_000);
    }

    #[test]
    fn hashes_spread() {
        let hash =
            |n: u32| BuildHasherDefault::<KeyHasher>::default().hash_one(UserKey::of(&n.to_string()).0.as_u128());
        let (mut low, mut high) = (HashSet::new(), HashSet::new());
        for n in 0..10_000 {
            low.insert(hash(n) % 128);
            high.insert(hash(n) >> 57);
        }
        assert_eq!((low.len(), high.len()), (128, 128));
    }
}
